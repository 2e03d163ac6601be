"""Paths on a local disk and on ``gs://``, with the few operations that a data set needs.

Light until a ``gs://`` path comes: google-cloud-storage is imported on first use.
"""

import os
import tempfile
from typing import BinaryIO


def is_remote(path: str) -> bool:
    """Whether a path is on Cloud Storage."""
    return path.startswith("gs://")


def join(directory: str, name: str) -> str:
    """Joins a directory, local or remote, and a name."""
    return f"{directory.rstrip('/')}/{name}" if is_remote(directory) else os.path.join(directory, name)


def size(path: str) -> int | None:
    """Bytes of a file, or None where there is no file."""
    try:
        return os.stat(path).st_size
    except (FileNotFoundError, NotADirectoryError):
        return None


def open_read(path: str) -> BinaryIO:
    """Opens a file for reading bytes."""
    return open(path, "rb")


def read_bytes(path: str) -> bytes:
    """Reads a whole file.

    Raises:
        FileNotFoundError: there is none.
    """
    with open_read(path) as file:
        return file.read()


def sync_directory(directory: str) -> None:
    """Makes renames in a local directory survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: str, data: bytes) -> None:
    """Writes a small file by one atomic operation, replacing what was there."""
    directory = os.path.dirname(path) or "."
    with tempfile.NamedTemporaryFile(dir=directory, prefix=".partial-", delete=False) as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
    sync_directory(directory)
