"""Reads an object on Cloud Storage as a file: sequentially at full speed, or at random."""

import io
from typing import Any, BinaryIO

import google_crc32c
from google.api_core import exceptions

from pipeline.errors import UnavailableError
from pipeline.storage import gcs

FIRST_BYTES, MOST_BYTES = 256 << 10, 8 << 20  # of one request: doubled while reading is sequential


def open_read(path: str) -> BinaryIO:
    """Opens an object for streaming, with seeking; FileNotFoundError if there is none."""
    return io.BufferedReader(ObjectReader(path), FIRST_BYTES)


class ObjectReader(io.RawIOBase):
    """One generation of an object; wrap it in io.BufferedReader.

    If read to the end without a gap, the bytes are checked against the object's crc32c before the last are returned.

    Raises:
        FileNotFoundError: there is no such object.
        UnavailableError: the object was replaced meanwhile, or its checksum is wrong.
    """

    def __init__(self, path: str):
        described = gcs.stat(path)
        if described is None:
            raise FileNotFoundError(f"there is no object {path}")
        self._path, self._object = path, described
        self._place = 0
        self._window, self._window_start = memoryview(b""), 0
        self._crc32c, self._summed = 0, 0  # of the bytes 0 … _summed-1

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Bytes from the start."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves without requesting anything."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._object.size}[whence]
        if start + offset < 0:
            raise ValueError(f"seek to {start + offset}, before the start of {self._path}")
        self._place = start + offset
        return self._place

    def readinto(self, buffer: Any) -> int:
        """Fills the buffer as far as the last request's data reaches; 0 at the end."""
        if self._place >= self._object.size or not len(buffer):
            return 0
        if not self._window_start <= self._place < self._window_start + len(self._window):
            self._fetch(len(buffer))
        data = self._window[self._place - self._window_start :][: len(buffer)]
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)

    def _fetch(self, least: int) -> None:
        """Requests at least this many bytes from here on, and more if reading is sequential."""
        sequential = self._place == self._window_start + len(self._window) and self._place > 0
        ahead = min(MOST_BYTES, 2 * len(self._window)) if sequential else FIRST_BYTES
        count = min(max(min(least, MOST_BYTES), ahead), self._object.size - self._place)
        self._window = memoryview(b"")  # free it before the next arrives
        try:
            data = gcs.read_range(self._path, self._object.generation, self._place, count)
        except (exceptions.PreconditionFailed, FileNotFoundError) as error:
            raise UnavailableError(f"{self._path} was replaced or deleted while it was read") from error
        self._verify(data)
        self._window, self._window_start = memoryview(data), self._place

    def _verify(self, data: bytes) -> None:
        before = self._summed - self._place  # bytes that were summed already, when something is read again
        if not 0 <= before < len(data):
            return
        self._crc32c = google_crc32c.extend(self._crc32c, data[before:])
        self._summed += len(data) - before
        if self._summed == self._object.size and self._crc32c != self._object.crc32c:
            raise UnavailableError(
                f"{self._path}: what was read has crc32c {self._crc32c:08x}, but the object has "
                f"{self._object.crc32c:08x}; read it again"
            )
