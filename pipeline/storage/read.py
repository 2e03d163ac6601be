"""Checks and reads files on a local disk and on ``gs://``.

Imports google-cloud-storage only for a ``gs://`` path.
"""

import contextlib
import os
import stat
from collections.abc import Iterator
from typing import Any, BinaryIO

from pipeline.errors import UserError


def gcs() -> Any:
    """The module of Cloud Storage's objects."""
    from pipeline.storage import gcs

    return gcs


def is_remote(path: str) -> bool:
    """Whether a path is on Cloud Storage."""
    return path.startswith("gs://")


@contextlib.contextmanager
def explained(path: str) -> Iterator[None]:
    """Turns a local disk's error into one sentence that names the path, as ``gcs_client.explained`` does.

    Raises:
        UserError: the path is not readable, or not a valid path.
        FileNotFoundError, NotADirectoryError: nothing has this name.
    """
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise UserError(f"{error.filename or path}: cannot be read ({error.strerror})") from error


def join(directory: str, name: str) -> str:
    """Joins a directory, local or remote, and a name."""
    return f"{directory.rstrip('/')}/{name}" if is_remote(directory) else os.path.join(directory, name)


def size(path: str) -> int | None:
    """Bytes of a file, or None if there is no file; UserError if this user may not know."""
    if is_remote(path):
        return gcs().size(path)
    status = _stat(path)
    return status.st_size if status and stat.S_ISREG(status.st_mode) else None


def _stat(path: str) -> os.stat_result | None:
    try:
        with explained(path):
            return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def list_files(directory: str, *, deep: bool = True) -> list[tuple[str, int]] | None:
    """Lists (path, bytes) of all files under a directory, in no particular order; None if there is no directory.

    Includes files in its folders if ``deep``.
    """
    if is_remote(directory):
        return gcs().list_files(directory, deep=deep)
    status = _stat(directory)
    if not status or not stat.S_ISDIR(status.st_mode):
        return None
    files: list[tuple[str, int]] = []
    with explained(directory):
        for folder, _, names in os.walk(directory, onerror=_raise_unless_gone):
            sizes = [(path, size(path)) for path in (os.path.join(folder, name) for name in names)]
            files += [(path, count) for path, count in sizes if count is not None]
            if not deep:
                break
    return files


def is_empty(path: str) -> bool:
    """Whether a new directory can be made here: nothing is there, or an empty directory."""
    if is_remote(path):
        return gcs().is_empty(path)
    try:
        with explained(path):
            return not os.listdir(path)
    except (FileNotFoundError, NotADirectoryError):
        return not os.path.lexists(path)


def _raise_unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):  # a folder that another process deleted meanwhile
        raise error


def open_read(path: str) -> BinaryIO:
    """Opens a file for reading bytes.

    Raises:
        FileNotFoundError: there is none.
        UserError: it is not readable.
    """
    if is_remote(path):
        from pipeline.storage import gcs_reader

        return gcs_reader.open_read(path)
    with explained(path):
        return open(path, "rb")


def read_bytes(path: str) -> bytes:
    """Reads a whole file; raises as ``open_read`` does."""
    with explained(path), open_read(path) as file:
        return file.read()


def file_crc32c(path: str) -> int:
    """The crc32c of a local file, read once in bounded memory."""
    import google_crc32c

    crc = 0
    with open(path, "rb") as file:
        while data := file.read(1 << 20):
            crc = google_crc32c.extend(crc, data)
    return crc
