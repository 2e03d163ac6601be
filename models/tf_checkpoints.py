"""TensorFlow checkpoints in folders of any name."""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator

PATTERN = re.compile(r"[\[\\]")  # makes TensorFlow read a name as a pattern; * and ? match themselves


@contextlib.contextmanager
def plain_name(folder: str) -> Iterator[str]:
    """Yields a name of ``folder`` that is not a pattern, while its checkpoint is read.

    TensorFlow finds a checkpoint by a pattern and then opens it by its name, so escaping does not help: it can write
    ``runs/a [v2]`` but not read it. A local folder gets a symbolic link in a temporary directory. Objects under
    ``gs://`` cannot be linked, so they are copied to the local disk.

    Args:
        folder: local or ``gs://``.
    """
    if not PATTERN.search(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        plain = os.path.join(temporary, "checkpoint")
        if "://" in folder:
            import tensorflow as tf  # late: pipeline.export checks names before slow imports

            os.mkdir(plain)
            for name in tf.io.gfile.listdir(folder):
                if not name.endswith("/"):
                    tf.io.gfile.copy(f"{folder}/{name}", os.path.join(plain, name))
        else:
            os.symlink(os.path.abspath(folder), plain)
        yield plain
