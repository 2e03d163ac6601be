"""Opening the files of a source, compressed or not.

A file's name determines its kind, never its content: one of OpenWebText's inner archives begins with bytes that
sniffers take for a zip file.
"""

import bz2
import contextlib
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from pipeline import storage
from pipeline.errors import UserError

COMPRESSED = {".gz": 3.0, ".xz": 4.0, ".bz2": 4.0, ".zst": 3.5}  # bytes of text per byte, for estimates only


def suffix(name: str) -> str:
    """The compression suffix of a name ('.gz') in lower case, or an empty string."""
    return next((ending for ending in COMPRESSED if name.lower().endswith(ending)), "")


def decompress(raw: BinaryIO, name: str) -> BinaryIO:
    """Returns the stream, decompressed if its name says so."""
    readers: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zst": _ZstandardReader}
    kind = suffix(name)
    return io.BufferedReader(readers[kind](raw), 1 << 20) if kind else raw


def open_text(path: str, start: int = 0) -> BinaryIO:
    """Opens a file for reading, decompressed by its name; ``start`` seeks in uncompressed files."""
    raw = storage.open_read(path)
    if start:
        raw.seek(start)
    return decompress(raw, path)


class _DamagedFrameError(Exception):
    """zstandard's error, under a name that exists before the package is imported."""


class _ZstandardReader(io.RawIOBase):
    """Decompresses frames one after the other; unlike zstandard's own reader, detects a truncated last frame.

    Accepts any window of the format (zstd --long=31: 2 GiB); touches memory only as far as the text goes.
    """

    def __init__(self, raw: BinaryIO):
        import zstandard

        self._raw, self._pending, self._begun = raw, b"", False
        self._new, self._error = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj, zstandard.ZstdError
        self._frame: Any = self._new()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._pending:
            chunk = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame, self._begun = self._new(), False
            chunk = chunk or self._raw.read(1 << 17)
            if not chunk:
                if self._begun:
                    raise EOFError("compressed file ended before the end of a frame")
                return 0
            self._begun = True
            try:
                self._pending = self._frame.decompress(chunk)
            except self._error as error:
                raise _DamagedFrameError(str(error).removeprefix("zstd decompressor error: ")) from error
        count = min(len(buffer), len(self._pending))
        buffer[:count] = self._pending[:count]
        self._pending = self._pending[count:]
        return count


BROKEN = (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile, _DamagedFrameError)


@contextlib.contextmanager
def reading(name: str) -> Iterator[None]:
    """Turns the many ways in which a file can be truncated, corrupt or unreadable into one line that names it."""
    try:
        yield
    except BROKEN as error:
        raise UserError(f"{name} is truncated or corrupt: {error}") from error
    except PermissionError as error:
        raise UserError(f"{name} cannot be read: {error.strerror or error}") from error
    except FileNotFoundError as error:
        raise UserError(f"{name} vanished while it was read") from error
    except OSError as error:
        if error.errno is None:  # how bz2 reports damaged data
            raise UserError(f"{name} is truncated or corrupt: {error}") from error
        raise
