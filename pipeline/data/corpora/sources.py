"""Listing a source (a file, a directory, a glob; local or gs://) and opening its files, compressed or not.

What a file is follows from its name, never from its content: one of OpenWebText's inner archives begins with bytes that
sniffers take for a zip file.
"""

import bz2
import contextlib
import fnmatch
import gzip
import io
import lzma
import os
import re
import sys
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

from pipeline.data import storage
from pipeline.errors import UserError

COMPRESSED = {".gz": 3.0, ".xz": 4.0, ".bz2": 4.0, ".zst": 3.5}  # bytes of text a byte, for estimates only


class File(NamedTuple):
    """A file of the source: ``name`` is its path inside the source, so that moving a source changes no id."""

    path: str
    name: str
    size: int


def suffix(name: str) -> str:
    """The compression suffix of a name, such as '.gz', or an empty string."""
    return next((ending for ending in COMPRESSED if name.endswith(ending)), "")


def _matches(name: str, endings: Sequence[str]) -> bool:
    return name.removesuffix(suffix(name)).endswith(tuple(endings)) or name.endswith(tuple(endings))


def find(source: str | None, endings: Sequence[str], corpus: str) -> list[File]:
    """Lists the files of a source, sorted by name.

    Args:
        source: a file, a directory (searched with its folders for names with ``endings``), or a glob.
        endings: such as '.txt'; a compression suffix may follow.
        corpus: named in errors.

    Raises:
        UserError: no source, one that does not exist or cannot be read, or one that holds nothing.
    """
    if not source:
        raise UserError(f"corpus {corpus!r} needs --source: a file, a directory or a glob, local or gs://")
    try:
        files = _find(source, endings)
    except PermissionError as error:
        raise UserError(f"--source={source} cannot be read: {error.strerror or error}") from error
    if not files:
        raise UserError(f"--source={source} holds no file named *{', *'.join(endings)} for corpus {corpus!r}")
    if not sum(file.size for file in files):
        raise UserError(f"--source={source} is empty: {len(files)} files of 0 bytes")
    return files


def _find(source: str, endings: Sequence[str]) -> list[File]:
    size = storage.size(source) if not source.endswith("/") else None
    if size is not None:
        if not storage.is_remote(source) and not os.access(source, os.R_OK):
            raise PermissionError(13, "permission denied")
        return [File(source, source.rstrip("/").rpartition("/")[2], size)]
    pattern = re.search(r"[*?\[]", source)
    root = source[: pattern.start()].rpartition("/")[0] + "/" if pattern and "/" in source else source
    if pattern and "/" not in source:
        root = "./"
    listed = storage.list_files(root)
    if listed is None:
        raise UserError(f"--source={source} does not exist")
    root = root.rstrip("/") + "/"
    found = []
    for path, path_size in listed:
        name = path.removeprefix(root)
        wanted = (
            fnmatch.fnmatchcase(path, source if "/" in source else "./" + source)
            if pattern
            else _matches(name, endings)
        )
        if wanted and not any(folder.startswith(".") for folder in name.split("/")):
            found.append(File(path, name, path_size))
    return sorted(found, key=lambda file: file.name)


def decompress(raw: BinaryIO, name: str) -> BinaryIO:
    """Returns the stream decompressed as its name says, or itself."""
    kind = suffix(name)
    if kind == ".gz":
        return io.BufferedReader(gzip.GzipFile(fileobj=raw), 1 << 20)
    if kind == ".bz2":
        return io.BufferedReader(bz2.BZ2File(raw), 1 << 20)
    if kind == ".xz":
        return io.BufferedReader(lzma.LZMAFile(raw), 1 << 20)
    if kind == ".zst":
        return io.BufferedReader(_ZstandardReader(raw), 1 << 20)
    return raw


def open_text(path: str, start: int = 0) -> BinaryIO:
    """Opens a file for reading, decompressed by its name; ``start`` seeks, in files that are not compressed."""
    raw = storage.open_read(path)
    if start:
        raw.seek(start)
    return decompress(raw, path)


class _ZstandardReader(io.RawIOBase):
    """Decompresses frames one after the other, and unlike zstandard's own reader notices a cut last frame."""

    def __init__(self, raw: BinaryIO):
        import zstandard

        self._raw, self._pending, self._begun = raw, b"", False
        self._new = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj
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
            self._pending = self._frame.decompress(chunk)
        count = min(len(buffer), len(self._pending))
        buffer[:count] = self._pending[:count]
        self._pending = self._pending[count:]
        return count


@contextlib.contextmanager
def reading(name: str) -> Iterator[None]:
    """Turns the many ways in which a file can be truncated, corrupt or unreadable into one line that names it."""
    broken: tuple[type[BaseException], ...] = (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile)
    if "zstandard" in sys.modules:  # only a reader that has opened such a file can raise its error
        broken += (sys.modules["zstandard"].ZstdError,)
    try:
        yield
    except broken as error:
        raise UserError(f"{name} is truncated or corrupt: {error}") from error
    except PermissionError as error:
        raise UserError(f"{name} cannot be read: {error.strerror or error}") from error
    except FileNotFoundError as error:
        raise UserError(f"{name} vanished while it was read") from error
    except OSError as error:
        if error.errno is None:  # how bz2 says that its data are no such data
            raise UserError(f"{name} is truncated or corrupt: {error}") from error
        raise
