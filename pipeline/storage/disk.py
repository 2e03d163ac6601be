"""Whether the local disks have room for what is about to be written."""

import os
import shutil
import sys
from collections.abc import Mapping

from pipeline.errors import UnavailableError
from pipeline.storage import nearest_existing


def check_space(needed: Mapping[str, int]) -> None:
    """Compares the bytes that directories will take with what their disks have free; prints a need of over a gigabyte.

    Args:
        needed: bytes by local directory; those on one disk are added up.

    Raises:
        UnavailableError: there is not enough.
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
