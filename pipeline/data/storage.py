"""Paths on a local disk and on ``gs://``, with the few operations that a data set needs.

Light until a ``gs://`` path comes: google-cloud-storage is imported on first use.
"""

import contextlib
import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from typing import Any, BinaryIO

from pipeline.errors import UserError

PARTIAL = ".partial-"  # names of files that are being written begin so, and nobody takes them for data


class UnavailableError(UserError):
    """A disk or a bucket cannot take or give what it should; finished work is kept for the next try."""


def _gcs() -> Any:
    from pipeline.data import gcs

    return gcs


def is_remote(path: str) -> bool:
    """Whether a path is on Cloud Storage."""
    return path.startswith("gs://")


def join(directory: str, name: str) -> str:
    """Joins a directory, local or remote, and a name."""
    return f"{directory.rstrip('/')}/{name}" if is_remote(directory) else os.path.join(directory, name)


def size(path: str) -> int | None:
    """Bytes of a file, or None where there is no file."""
    if is_remote(path):
        return _gcs().size(path)
    try:
        return os.stat(path).st_size if os.path.isfile(path) else None
    except (FileNotFoundError, NotADirectoryError):
        return None


def list_files(directory: str) -> list[tuple[str, int]] | None:
    """Lists (path, bytes) of all files under a directory, in no particular order; None where there is no directory."""
    if is_remote(directory):
        return _gcs().list_files(directory)
    if not os.path.isdir(directory):
        return None
    found = []
    for folder, _, names in os.walk(directory, onerror=_raise):
        paths = [os.path.join(folder, name) for name in names]
        found += [(path, os.stat(path).st_size) for path in paths if os.path.isfile(path)]
    return found


def _raise(error: OSError) -> None:
    raise error


def delete_files(directory: str) -> None:
    """Deletes all files under a directory of Cloud Storage."""
    _gcs().delete_files(directory)


def nearest_existing(path: str) -> str:
    """Returns a local path, or the nearest above it that is there: where it is, or would be made."""
    existing = os.path.abspath(path)
    while not os.path.lexists(existing):
        existing = os.path.dirname(existing)
    return existing


def check_writable(directory: str) -> None:
    """Refuses a directory or a bucket that cannot be written to, before any work is done; makes nothing.

    Raises:
        UserError: A bucket that does not exist or refuses; a local directory that could not be made or written to.
    """
    if is_remote(directory):
        _gcs().check_writable(directory)
        return
    existing = nearest_existing(directory)
    if not os.path.isdir(existing):
        raise UserError(f"{directory}: {existing} is not a directory; expected a new directory, or one that is there")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"{directory}: {existing} cannot be written to; expected a directory of yours")


def open_read(path: str) -> BinaryIO:
    """Opens a file for reading bytes.

    Raises:
        FileNotFoundError: there is none.
    """
    return _gcs().open_read(path) if is_remote(path) else open(path, "rb")


def read_bytes(path: str) -> bytes:
    """Reads a whole file.

    Raises:
        FileNotFoundError: there is none.
    """
    if is_remote(path):
        return _gcs().read_bytes(path)
    with open(path, "rb") as file:
        return file.read()


def file_crc32c(path: str) -> int:
    """The crc32c of a local file, read once in bounded memory."""
    import google_crc32c

    crc = 0
    with open(path, "rb") as file:
        while data := file.read(1 << 20):
            crc = google_crc32c.extend(crc, data)
    return crc


def check_space(directory: str, needed: int) -> None:
    """Compares the bytes that will be written with what is free, and tells a user of more than a gigabyte both.

    Raises:
        UnavailableError: there is not enough.
    """
    existing = nearest_existing(directory)
    free = shutil.disk_usage(existing).free
    stated = f"about {needed / 1e9:,.1f} GB are needed in {existing}, {free / 1e9:,.1f} GB are free"
    if needed > free:
        raise UnavailableError(f"no space: {stated}; --work_dir takes another disk")
    if needed > 1e9:
        print(stated, file=sys.stderr)


@contextlib.contextmanager
def enough_space(directory: str) -> Iterator[None]:
    """Turns a full disk into one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UnavailableError(
            f"no space left in {directory}: free some and repeat the command; finished work is kept"
        ) from error


def sync_directory(directory: str) -> None:
    """Makes renames in a local directory survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def partial_file(directory: str) -> Iterator[Any]:
    """Opens a temporary file beside its destination; it is deleted unless it was renamed or linked meanwhile."""
    with tempfile.NamedTemporaryFile(dir=directory, prefix=PARTIAL, delete=False, buffering=1 << 20) as file:
        os.chmod(file.name, 0o644)
        try:
            yield file
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(file.name)


def publish(local: str, path: str, crc32c: int) -> None:
    """Commits a finished, synced local file under ``path`` by one atomic operation; the local name goes away.

    Raises:
        UserError: other bytes stand there already. The same bytes are success.
    """
    if is_remote(path):
        _gcs().upload(local, path, crc32c)
    elif os.path.exists(path):
        if os.path.getsize(path) != os.path.getsize(local) or file_crc32c(path) != crc32c:
            raise UserError(f"{path} exists and holds other bytes: remove it or choose another --output")
    else:
        _move(local, path)
        sync_directory(os.path.dirname(path) or ".")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(local)


def _move(local: str, path: str) -> None:
    try:
        os.rename(local, path)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with partial_file(os.path.dirname(path) or ".") as file:  # from another disk
            with open(local, "rb") as source:
                shutil.copyfileobj(source, file, 1 << 20)
            file.flush()
            os.fsync(file.fileno())
            os.rename(file.name, path)


def replace_bytes(data: bytes, path: str) -> None:
    """Puts a small file in the place of whatever stands there, by one atomic operation; its directory exists."""
    if is_remote(path):
        _gcs().replace_bytes(data, path)
        return
    with partial_file(os.path.dirname(path) or ".") as file:
        file.write(data)
        file.flush()
        os.replace(file.name, path)


def publish_bytes(data: bytes, path: str) -> None:
    """Commits a small file by one atomic operation, as ``publish`` does."""
    import google_crc32c

    if is_remote(path):
        _gcs().upload_bytes(data, path)
        return
    with partial_file(os.path.dirname(path) or ".") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        publish(file.name, path, google_crc32c.value(data))
