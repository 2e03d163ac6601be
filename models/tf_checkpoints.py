"""TensorFlow checkpoints in folders of any name."""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator

PATTERN = re.compile(r"[\[\\]")  # in a name that TensorFlow takes for a pattern; * and ? match themselves


@contextlib.contextmanager
def plain_name(folder: str) -> Iterator[str]:
    """Gives a name of ``folder`` that is no pattern, for as long as its checkpoint is read.

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
            import tensorflow as tf  # late: a name is checked before anything is imported that takes time

            os.mkdir(plain)
            for name in tf.io.gfile.listdir(folder):
                if not name.endswith("/"):
                    tf.io.gfile.copy(f"{folder}/{name}", os.path.join(plain, name))
        else:
            os.symlink(os.path.abspath(folder), plain)
        yield plain
