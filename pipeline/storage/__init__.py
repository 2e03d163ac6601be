"""Paths on a local disk and on ``gs://``, with the few operations that a data set needs.

Imports google-cloud-storage only when a ``gs://`` path comes.
"""

import contextlib
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from typing import Any, BinaryIO

from pipeline.errors import UnavailableError, UserError

PARTIAL = ".partial-"  # how names of files begin that are still being written, so that nobody takes them for data
UNWRITABLE = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS)  # where no file can be made


def _gcs() -> Any:
    from pipeline.storage import gcs

    return gcs


def is_remote(path: str) -> bool:
    """Whether a path is on Cloud Storage."""
    return path.startswith("gs://")


@contextlib.contextmanager
def explained(path: str) -> Iterator[None]:
    """Turns what a local disk refuses into one sentence that names the path, as ``gcs_client.explained`` does.

    Raises:
        UserError: the path may not be read, or cannot be a path at all.
        FileNotFoundError, NotADirectoryError: there is nothing of this name.
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
    """Bytes of a file, or None where there is no file; UserError where this user may not know."""
    if is_remote(path):
        return _gcs().size(path)
    status = _stat(path)
    return status.st_size if status is not None and stat.S_ISREG(status.st_mode) else None


def _stat(path: str) -> os.stat_result | None:
    try:
        with explained(path):
            return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def is_directory(path: str) -> bool:
    """Whether a local path is a directory; UserError where this user may not know."""
    status = _stat(path)
    return status is not None and stat.S_ISDIR(status.st_mode)


def list_files(directory: str, *, deep: bool = True) -> list[tuple[str, int]] | None:
    """Lists (path, bytes) of all files under a directory, in no particular order; None where there is no directory.

    Args:
        directory: local or ``gs://``.
        deep: whether those in its folders count.
    """
    if is_remote(directory):
        return _gcs().list_files(directory, deep=deep)
    if not is_directory(directory):
        return None
    files: list[tuple[str, int]] = []
    with explained(directory):
        for folder, _, names in os.walk(directory, onerror=_raise):
            sizes = [(path, size(path)) for path in (os.path.join(folder, name) for name in names)]
            files += [(path, count) for path, count in sizes if count is not None]
            if not deep:
                break
    return files


def is_empty(path: str) -> bool:
    """Whether a new directory can be made here: there is nothing, or an empty directory."""
    if is_remote(path):
        return _gcs().is_empty(path)
    try:
        with explained(path):
            return not os.listdir(path)
    except (FileNotFoundError, NotADirectoryError):
        return not os.path.lexists(path)


def _raise(error: OSError) -> None:
    raise error


def delete_files(directory: str) -> None:
    """Deletes all files under a directory of Cloud Storage."""
    _gcs().delete_files(directory)


def nearest_existing(path: str) -> str:
    """Returns a local path if it exists, or else its nearest ancestor that does."""
    existing = os.path.abspath(path)
    while not os.path.lexists(existing):
        existing = os.path.dirname(existing)
    return existing


def check_writable(directory: str) -> None:
    """Refuses a directory or a bucket that cannot be written to, before any work is done; creates nothing.

    Raises:
        UserError: a bucket that does not exist or refuses; a local directory that could not be made or written to.
    """
    if is_remote(directory):
        _gcs().check_writable(directory)
        return
    existing = nearest_existing(directory)
    if not os.path.isdir(existing):
        raise UserError(f"{directory}: {existing} is not a directory; expected a new directory, or one that is there")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"{directory}: {existing} cannot be written to; expected a directory of yours")
    longest = os.pathconf(existing, "PC_NAME_MAX")
    for name in os.path.relpath(os.path.abspath(directory), existing).split(os.sep):
        if len(os.fsencode(name)) > longest:
            raise UserError(f"{directory}: a name has {len(os.fsencode(name))} bytes; expected {longest} at most there")


def open_read(path: str) -> BinaryIO:
    """Opens a file for reading bytes.

    Raises:
        FileNotFoundError: there is none.
        UserError: it may not be read.
    """
    if is_remote(path):
        from pipeline.storage import gcs_reader

        return gcs_reader.open_read(path)
    with explained(path):
        return open(path, "rb")


def read_bytes(path: str) -> bytes:
    """Reads a whole file; raises as ``open_read`` does."""
    if is_remote(path):
        with open_read(path) as file:
            return file.read()
    with explained(path), open(path, "rb") as file:
        return file.read()


def file_crc32c(path: str) -> int:
    """The crc32c of a local file, read once in bounded memory."""
    import google_crc32c

    crc = 0
    with open(path, "rb") as file:
        while data := file.read(1 << 20):
            crc = google_crc32c.extend(crc, data)
    return crc


@contextlib.contextmanager
def enough_space(directory: str) -> Iterator[None]:
    """Turns a full disk into one sentence that names the directory; ``partial_file`` does it by itself."""
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
    """Opens a temporary file beside its destination; it is deleted unless it was renamed or linked meanwhile.

    Its permissions follow the umask, which ``tempfile`` ignores.

    Raises:
        UnavailableError: the disk is full.
        UserError: no file can be made there.
    """
    path = os.path.join(directory, PARTIAL + secrets.token_hex(8))
    with enough_space(directory):
        try:
            with _created(path) as file:
                yield file
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


def _created(path: str) -> BinaryIO:
    try:
        return open(path, "x+b", buffering=1 << 20)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise UserError(f"{os.path.dirname(path) or '.'} cannot be written to ({error.strerror})") from None


def publish(local: str, path: str, crc32c: int) -> None:
    """Commits a finished, synced local file under ``path`` by one atomic operation; the local name goes away.

    Raises:
        UserError: the path exists with other bytes. The same bytes are success.
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
        with enough_space(os.path.dirname(path) or "."):
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
    """Writes a small file over whatever is there, by one atomic operation; its directory exists already."""
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
