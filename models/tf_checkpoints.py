"""TensorFlow checkpoints in folders of any name."""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator

import tensorflow as tf

PATTERN = re.compile(r"[*?\[\]\\]")  # what TensorFlow's reader of checkpoints and SavedModels takes for a pattern


@contextlib.contextmanager
def plain_name(folder: str) -> Iterator[str]:
    """Gives a name of ``folder`` that holds no character of a pattern, for as long as its checkpoint is read.

    TensorFlow looks a checkpoint up by a pattern and then opens it by its name, so that no way of escaping helps: from
    ``runs/a [v2]`` it can write, but not read. A local folder gets a link beside none of the user's files; an object
    cannot be linked, so those under ``gs://`` are copied to the local disk.

    Args:
        folder: local or ``gs://``.
    """
    if not PATTERN.search(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        plain = os.path.join(temporary, "checkpoint")
        if "://" in folder:
            os.mkdir(plain)
            for name in tf.io.gfile.listdir(folder):
                if not name.endswith("/"):
                    tf.io.gfile.copy(f"{folder}/{name}", os.path.join(plain, name))
        else:
            os.symlink(os.path.abspath(folder), plain)
        yield plain
