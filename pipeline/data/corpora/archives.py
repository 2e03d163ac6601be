"""Tar archives as streams: reads members one after the other, unpacks none, and uses their names only as ids.

This module walks from header to header and reads plain ones itself: tarfile would take half as long as decompressing
small text files does. tarfile reads other headers (other kinds of member, long names).

Source of the layout: POSIX.1-2017, pax, ustar interchange format.
"""

import os
import tarfile
from collections.abc import Iterator
from typing import BinaryIO

from pipeline.errors import UserError

BLOCK = tarfile.BLOCKSIZE
LARGEST_NAME = 1 << 20  # bytes of an extended header; more is damage, not a name


class Member:
    """A file of an archive; ``read`` returns its bytes, the next ``size`` of the archive's stream."""

    def __init__(self, archive: BinaryIO, name: str, size: int, where: str):
        self._archive, self._left, self._where = archive, size, where
        self.name, self.size = name, size

    def read(self, size: int = -1) -> bytes:
        """Returns up to ``size`` bytes (all if negative), and b"" at the member's end.

        Raises:
            UserError: the archive ends before the member does.
        """
        count = self._left if size < 0 else min(size, self._left)
        data = self._archive.read(count)
        if len(data) < count:
            raise UserError(f"{self._where} is truncated in member {self.name!r}")
        self._left -= count
        return data


def is_unsafe(name: str) -> bool:
    """Whether unpacking a member of this name could leave the directory. We never unpack, but tell users."""
    return name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/")


def members(archive: BinaryIO, where: str) -> Iterator[Member]:
    """Yields the regular files of a tar stream in order; skips unread rests, and the stream need not seek.

    Raises:
        UserError: a header is damaged, or the archive ends before its end marker.
    """
    extended: dict[str, str] = {}
    last = "its beginning"
    while True:
        header = archive.read(BLOCK)
        if len(header) < BLOCK:
            raise UserError(f"{where} is truncated after {last}")
        if not header.strip(b"\0"):
            return
        try:
            info = _plain(header) or tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise UserError(f"{where} is corrupt or not a tar archive, after {last}: {error}") from error
        if info.type in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
            data = archive.read(info.size) if info.size <= LARGEST_NAME else b""
            if len(data) < info.size:
                raise UserError(f"{where} is truncated after {last}")
            archive.read(-info.size % BLOCK)
            if info.type == tarfile.XHDTYPE:
                extended.update(_pax(data, where))
            elif info.type == tarfile.GNUTYPE_LONGNAME:
                extended["path"] = os.fsdecode(data.rstrip(b"\0"))
            continue
        name, size = extended.get("path", info.name), int(extended.get("size", info.size))
        extended = {}
        last = f"member {name!r}"
        member = Member(archive, name, size if info.isreg() or info.type == tarfile.CONTTYPE else 0, where)
        if info.isreg():
            yield member
        while member.read(1 << 20):
            pass
        archive.read(-size % BLOCK if info.isreg() else 0)


def _plain(header: bytes) -> tarfile.TarInfo | None:
    """Reads the header of a regular file with a short name; None if it is another kind or its checksum is wrong."""
    name, size, stated = header[:100].rstrip(b"\0"), header[124:135], header[148:156].partition(b"\0")[0].strip()
    if header[156:157] not in (b"0", b"\0") or header[345] or name.endswith(b"/") or b"\0" in name:
        return None
    if not (size.isdigit() and header[135] in b"\0 " and stated.isdigit()):
        return None
    try:
        if int(stated, 8) != sum(header) - sum(header[148:156]) + 8 * ord(" "):
            return None
        info = tarfile.TarInfo(name.decode("utf-8", "surrogateescape"))
        info.size = int(size, 8)
    except ValueError:  # a digit that is not octal
        return None
    return info


def _pax(data: bytes, where: str) -> dict[str, str]:
    r"""Reads the records '<length> <key>=<value>\n' of an extended header."""
    values = {}
    while data:
        try:
            length, _, _ = data.partition(b" ")
            record, data = data[: int(length)], data[int(length) :]
            key, _, value = record[len(length) + 1 : -1].partition(b"=")
        except ValueError as error:
            raise UserError(f"{where} is corrupt: an extended header is unreadable") from error
        values[key.decode("utf-8", "replace")] = os.fsdecode(value)
        if not record:
            raise UserError(f"{where} is corrupt: an extended header is empty")
    return values
