"""Errors that a user can fix: one line that names the value, what was expected and the nearest valid choice."""

import difflib
import errno
import itertools
import os
import pathlib
import sys
from collections.abc import Iterable


class UserError(Exception):
    """The user's input is wrong. Command lines print it as one line on stderr and exit with code 2."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.split()))


class UnavailableError(UserError):
    """A disk or a bucket cannot be read or written; finished work is kept for the next try."""


class WorkFailedError(Exception):
    """The work failed, and the message gives the full reason: one line on stderr, no traceback, exit code 1."""


class WorkerLostError(Exception):
    """A machine of the run went away, or is about to.

    Command lines exit with code 75 (EX_TEMPFAIL): start the same command again.
    """


DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


def disk_fault(error: BaseException) -> str | None:
    """Returns a line for an error that says that a disk is full, read-only or broken; None for any other.

    TensorFlow gives no error number; its messages quote the system's words after the path and a semicolon.
    """
    if isinstance(error, OSError) and error.errno in DISK_FAULTS:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if type(error).__module__.startswith("tensorflow."):
        for words in map(os.strerror, DISK_FAULTS):
            before, match, _ = str(error).partition(words)
            if match:
                path = before.rpartition("\n")[2].rpartition("} ")[2].strip().removesuffix(";")
                return f"{path}: {words}" if path else words
    return None


def data_fault(error: BaseException) -> str | None:
    """Returns a line for TensorFlow's error about a damaged file of records; None for any other error.

    A damaged checkpoint is a DataLossError too; only the record reader's message mentions a record.
    """
    if type(error).__name__ != "DataLossError" or not type(error).__module__.startswith("tensorflow."):
        return None
    lines = [line.strip() for line in str(error).splitlines()]
    found = next((line for line in lines if "corrupted record" in line or "truncated record" in line), None)
    if found is None:
        return None
    what = found.partition("DATA_LOSS: ")[2] or found
    return f"the data set is damaged ({what}); python -m tools.verify --data=… names the file and the record"


def pip_install(what: str) -> str:
    """Returns the command that installs for this Python: ``.venv/bin/pip install -r requirements.txt``."""
    pip, here = pathlib.Path(sys.executable).with_name("pip"), pathlib.Path.cwd()
    if sys.prefix == sys.base_prefix or not pip.exists():  # no virtual environment, or one that another tool made
        return f"pip install {what}"
    return f"{pip.relative_to(here) if pip.is_relative_to(here) else pip} install {what}"


def nearest(name: str, choices: Iterable[str]) -> str:
    """Returns ``" (did you mean 'x'?)"`` for the closest of ``choices``, or an empty string when none is close."""

    def likeness(choice: str) -> tuple[float, int]:  # of two equally similar ones, the longer common prefix wins
        same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(choice, name, strict=False))
        return difflib.SequenceMatcher(None, choice, name).ratio(), len(list(same))

    close = [choice for choice in sorted(choices) if likeness(choice)[0] >= 0.5]
    return f" (did you mean {max(close, key=likeness)!r}?)" if close else ""
