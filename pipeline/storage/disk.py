"""Checks that a place is writable and that the local disks have enough room."""

import contextlib
import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping

from pipeline.errors import UnavailableError, UserError
from pipeline.storage.read import gcs, is_remote

FULL = errno.ENOSPC, errno.EDQUOT


def nearest_existing(path: str) -> str:
    """Returns a local path if it exists, else its nearest existing ancestor."""
    existing = os.path.abspath(path)
    while not os.path.lexists(existing):
        existing = os.path.dirname(existing)
    return existing


def check_writable(directory: str) -> None:
    """Rejects a directory or a bucket that cannot be written to, before any work is done; leaves nothing behind.

    Raises:
        UserError: the bucket does not exist or denies access; the local directory cannot be created or written to.
    """
    if is_remote(directory):
        gcs().check_writable(directory)
        return
    existing = nearest_existing(directory)
    if not os.path.isdir(existing):
        raise UserError(f"{directory}: {existing} is not a directory; expected a new directory, or one that is there")
    try:
        with tempfile.TemporaryFile(dir=existing):  # root has permission everywhere, but cannot write to /proc
            pass
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno in (errno.EROFS, *FULL) else "expected a directory of yours"
        place = directory if os.path.abspath(directory) == existing else f"{directory}: {existing}"
        raise UserError(f"{place} cannot be written to; {reason}") from None
    longest = os.pathconf(existing, "PC_NAME_MAX")
    for name in os.path.relpath(os.path.abspath(directory), existing).split(os.sep):
        if len(os.fsencode(name)) > longest:
            raise UserError(f"{directory}: a name has {len(os.fsencode(name))} bytes; expected {longest} at most there")


def check_file(path: str) -> None:
    """Rejects a local file that could not be written, before any work is done; its folder must exist.

    Raises:
        UserError: it is a directory, its folder does not exist or is not writable, or the file is read-only.
    """
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path):
        raise UserError(f"{path}: that is a directory; expected a file")
    if not os.path.isdir(folder):
        raise UserError(f"{path}: its folder does not exist; expected a file in a folder that does")
    check_writable(folder)
    if os.path.exists(path) and not os.access(path, os.W_OK):
        raise UserError(f"{path}: it cannot be written to; expected a file of yours")


@contextlib.contextmanager
def enough_space(directory: str) -> Iterator[None]:
    """Turns a full disk into one sentence that names the directory; ``partial_file`` does this itself."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise UnavailableError(
            f"no space left in {directory}: free some and repeat the command; finished work is kept"
        ) from error


def check_space(needed: Mapping[str, int]) -> None:
    """Compares the bytes that local directories will need with the free space on their disks.

    Sums directories on the same disk. Prints a need of over a gigabyte.

    Raises:
        UnavailableError: space is short.
    """
    disks: dict[int, tuple[str, int]] = {}
    for directory, count in needed.items():
        existing = nearest_existing(directory)
        disk = os.stat(existing).st_dev
        first, before = disks.get(disk, (existing, 0))
        disks[disk] = first, before + count
    for existing, count in disks.values():
        free = shutil.disk_usage(existing).free
        stated = f"about {_amount(count)} are needed in {existing}, {_amount(free)} are free"
        if count > free:
            raise UnavailableError(f"no space: {stated}; --work_dir takes another disk for unfinished work")
        if count > 1e9:
            print(stated, file=sys.stderr)


def _amount(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size / 10:
            return f"{count / size:,.1f} {unit}"
    return f"{count:,} bytes"
