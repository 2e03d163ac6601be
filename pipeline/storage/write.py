"""Writes files on a local disk and on ``gs://`` by one atomic operation: complete, or absent."""

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from typing import Any, BinaryIO

from pipeline.errors import UserError
from pipeline.storage.disk import enough_space
from pipeline.storage.read import file_crc32c, gcs, is_remote

PARTIAL = ".partial-"  # prefix of files that are still being written, so that they are not mistaken for data
UNWRITABLE = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM)  # where no file can be made


def delete_files(directory: str) -> None:
    """Deletes all files under a directory of Cloud Storage."""
    gcs().delete_files(directory)


def sync_path(path: str) -> None:
    """Makes a local file's bytes, or a directory's renames, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync(file: BinaryIO) -> None:
    """Syncs a local file, so that it survives a power cut."""
    file.flush()
    os.fsync(file.fileno())


def remove_partial(folder: str) -> None:
    """Removes killed processes' unfinished files from a local folder."""
    for entry in os.scandir(folder) if os.path.isdir(folder) else ():
        if entry.name.startswith(PARTIAL):
            shutil.rmtree(entry) if entry.is_dir(follow_symlinks=False) else os.unlink(entry)


@contextlib.contextmanager
def partial_file(directory: str) -> Iterator[Any]:
    """Opens a temporary file next to its destination, and deletes it unless it was renamed or linked meanwhile.

    Raises:
        UnavailableError: the disk is full.
        UserError: no file can be made there.
    """
    with enough_space(directory), _temporary(directory) as file:
        yield file


@contextlib.contextmanager
def _temporary(directory: str) -> Iterator[BinaryIO]:
    """Opens a file whose permissions follow the umask, which ``tempfile`` ignores."""
    path = os.path.join(directory, PARTIAL + secrets.token_hex(8))
    try:
        file = open(path, "x+b", buffering=1 << 20)  # noqa: SIM115  (closed below)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise UserError(f"{os.path.dirname(path) or '.'} cannot be written to ({error.strerror})") from None
    try:
        with file:
            yield file
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def publish(local: str, path: str, crc32c: int) -> None:
    """Commits a finished, synced local file under ``path`` by one atomic operation; removes the local name.

    Raises:
        UserError: the path exists with other bytes. The same bytes are success.
    """
    if is_remote(path):
        from pipeline.storage import gcs_upload

        gcs_upload.upload(local, path, crc32c)
    elif os.path.exists(path):
        if os.path.getsize(path) != os.path.getsize(local) or file_crc32c(path) != crc32c:
            raise UserError(f"{path} exists and holds other bytes: remove it or choose another --output")
    else:
        _move(local, path)
        sync_path(os.path.dirname(path) or ".")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(local)


def _move(local: str, path: str) -> None:
    try:
        with enough_space(os.path.dirname(path) or "."):
            os.rename(local, path)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with partial_file(os.path.dirname(path) or ".") as file:  # from another disk
            with open(local, "rb") as source:
                shutil.copyfileobj(source, file, 1 << 20)
            sync(file)
            os.rename(file.name, path)


def replace_bytes(data: bytes, path: str) -> None:
    """Writes a small file over whatever is there, by one atomic operation; its directory exists already.

    Raises:
        OSError: the disk is full or broken; it names the path.
        UserError: no file can be made there.
    """
    if is_remote(path):
        gcs().replace_bytes(data, path)
        return
    try:
        with _temporary(os.path.dirname(path) or ".") as file:
            file.write(data)
            sync(file)
            os.replace(file.name, path)
    except OSError as error:
        error.filename = path  # write() meets a full disk, and does not know the path
        raise


def publish_bytes(data: bytes, path: str) -> None:
    """Commits a small file by one atomic operation, as ``publish`` does."""
    import google_crc32c

    if is_remote(path):
        from pipeline.storage import gcs_upload

        gcs_upload.upload_bytes(data, path)
        return
    with partial_file(os.path.dirname(path) or ".") as file:
        file.write(data)
        sync(file)
        publish(file.name, path, google_crc32c.value(data))
