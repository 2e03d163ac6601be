"""Paths as users write them, on command lines and in gin files: ``~`` is a home; unusable paths are rejected.

Imports only the standard library.
"""

import os
import re

LONGEST_OBJECT_NAME = 1024  # bytes, of Cloud Storage
CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def checked(path: str) -> str:
    """Returns a path, local or ``gs://``, with ``~`` and ``~user`` at its start replaced by that home.

    Raises:
        ValueError: it has control characters (a newline, say) or bytes that are not UTF-8, which neither TensorFlow nor
            Cloud Storage takes, or its ``~`` is nobody's home, or it is too long for Cloud Storage.
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{path!a} is not UTF-8 text; expected a path that is") from None
    if CONTROL.search(path):
        raise ValueError(f"{path!a} holds a newline or another control character; expected a path without")
    if path.startswith("gs://"):
        name = path[5:].partition("/")[2].encode()
        if len(name) > LONGEST_OBJECT_NAME:
            raise ValueError(f"{path} has a name of {len(name)} bytes; expected {LONGEST_OBJECT_NAME} at most")
        return path
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        raise ValueError(f"{path}: there is no user {path[1:].partition('/')[0]!r}; expected ./{path} for such a name")
    return expanded
