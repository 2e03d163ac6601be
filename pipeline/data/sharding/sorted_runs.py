"""Run files: the sorted tokens of one unit. They are also the journal: a unit is finished when its file has its name.

A run file holds segments, each one buffer of one part's documents in the stream's order: the runs of an external merge
sort. A segment has its tokens (uint16), an index entry per document (DOCUMENT, in the same order) and a table of where
each of the 256 buckets, the ranges of the keys' top byte, begins. A JSON footer describes the segments and counts what
was read. Merging needs no more than the index entries of one bucket in memory.

A run file ends with the crc32c of all bytes before it. It is not synced: after a crash, a resumed run reads it once
(``is_whole``), which costs far less than waiting for the disk after every unit.
"""

import functools
import json
import os
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, BinaryIO, NamedTuple

import google_crc32c
import numpy as np

from pipeline import storage

BUCKETS = 256
DOCUMENT = np.dtype([("key", "<u8"), ("content", "<u8"), ("end", "<u8")])  # end: tokens of the segment up to its own
MAGIC = b"gpt2run2"
WHOLE = 0x48674BC7  # the crc32c of any bytes followed by their own crc32c
TABLE_BYTES = 2 * (BUCKETS + 1) * 8


class Segment(NamedTuple):
    """Where the sections of a segment begin in its file, in bytes; ``tokens`` and ``documents`` count."""

    path: str
    part: str
    tokens_at: int
    tokens: int
    index_at: int
    documents: int

    @property
    def table_at(self) -> int:
        """Byte at which the bucket table begins."""
        return self.index_at + self.documents * DOCUMENT.itemsize


@dataclass(kw_only=True)
class Counts:
    """The counts of one part. ``fingerprint`` sums two hashes of every document, so that order does not matter."""

    documents: int = 0
    tokens: int = 0
    utf8_bytes: int = 0
    words: int = 0
    truncated_tokens: int = 0
    padding_tokens: int = 0
    fingerprint: list[int] = field(default_factory=lambda: [0, 0])
    dropped: dict[str, int] = field(default_factory=dict)

    def __add__(self, other: "Counts") -> "Counts":
        total = replace(self, dropped=dict(self.dropped))
        for name in ("documents", "tokens", "utf8_bytes", "words", "truncated_tokens", "padding_tokens"):
            setattr(total, name, getattr(self, name) + getattr(other, name))
        total.add_fingerprint(other.fingerprint)
        for reason, count in other.dropped.items():
            total.drop(reason, count)
        return total

    def add_fingerprint(self, other: Sequence[int]) -> None:
        """Adds the fingerprint of more documents."""
        self.fingerprint = [(mine + theirs) % (1 << 64) for mine, theirs in zip(self.fingerprint, other, strict=True)]

    def drop(self, reason: str, count: int = 1) -> None:
        """Counts dropped documents."""
        self.dropped[reason] = self.dropped.get(reason, 0) + count


class RunWriter:
    """Writes segments one after the other; ``finish`` completes the file (the caller renames it)."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._segments: list[dict[str, Any]] = []
        self._crc = 0
        self._opened_at = self._opened_crc = 0

    def _write(self, data: Any) -> None:
        self._crc = google_crc32c.extend(self._crc, data)
        self._file.write(data)

    def begin(self) -> None:
        """Opens a segment, to which ``append`` adds tokens until ``end`` or ``cancel``."""
        self._opened_at, self._opened_crc = self._file.tell(), self._crc

    def append(self, tokens: np.ndarray) -> None:
        """Adds uint16 tokens to the open segment."""
        frozen = np.ascontiguousarray(tokens, "<u2").view(np.uint8)
        frozen.flags.writeable = False  # google_crc32c takes nothing else without a copy
        self._write(frozen)

    def cancel(self) -> None:
        """Forgets the open segment."""
        self._file.seek(self._opened_at)
        self._file.truncate()
        self._crc = self._opened_crc

    def end(self, part: str, keys: np.ndarray, contents: np.ndarray, lengths: np.ndarray) -> None:
        """Closes the open segment, whose documents have these keys (sorted, or all zero), contents and lengths."""
        index = np.empty(len(keys), DOCUMENT)
        index["key"], index["content"], index["end"] = keys, contents, np.cumsum(lengths)
        index_at = self._file.tell()
        starts = np.searchsorted(keys >> np.uint64(56), np.arange(BUCKETS + 1, dtype=np.uint64))
        tokens = np.concatenate([[0], index["end"]])[starts]
        self._write(index.tobytes())
        self._write(np.stack([starts, tokens]).astype("<u8").tobytes())
        self._segments.append(
            {"part": part, "tokens_at": self._opened_at, "tokens": int(index["end"][-1]), "index_at": index_at}
            | {"documents": len(keys)}
        )

    def finish(self, counts: dict[str, Counts], extra: dict[str, Any]) -> None:
        """Writes the footer and the checksum."""
        footer = {"segments": self._segments, "counts": {part: asdict(count) for part, count in counts.items()}} | extra
        data = json.dumps(footer).encode()
        self._write(data + len(data).to_bytes(8, "little") + MAGIC)
        self._write(self._crc.to_bytes(4, "little"))
        self._file.flush()


def is_whole(path: str) -> bool:
    """Whether a run file is undamaged. Reads the file once."""
    return storage.file_crc32c(path) == WHOLE


def read_footer(path: str) -> tuple[list[Segment], dict[str, Counts], dict[str, Any]]:
    """Returns the segments, the counts by part and the ``extra`` that ``finish`` was given.

    Raises:
        ValueError: the file is not a complete run file.
    """
    with storage.open_read(path) as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 20))
        trailer = file.read(20)
        if trailer[8:16] != MAGIC:
            raise ValueError(f"{path} is not a complete run file")
        file.seek(end - 20 - int.from_bytes(trailer[:8], "little"))
        footer = json.loads(file.read()[:-20])
    segments = [Segment(path=path, **segment) for segment in footer.pop("segments")]
    counts = {part: Counts(**count) for part, count in footer.pop("counts").items()}
    return segments, counts, footer


def read_table(segment: Segment) -> tuple[np.ndarray, np.ndarray]:
    """Returns (first document, first token) of every bucket of a segment, each int64 [BUCKETS + 1]."""
    data = os.pread(_opened(segment.path).fileno(), TABLE_BYTES, segment.table_at)
    table = np.frombuffer(data, "<u8").astype(np.int64).reshape(2, -1)
    return table[0], table[1]


def read_index(segment: Segment, bucket: int | None) -> tuple[np.ndarray, int]:
    """Returns a bucket's index entries (None: all) and the token of the segment at which the first one begins."""
    file = _opened(segment.path).fileno()
    first, last = 0, segment.documents
    if bucket is not None:
        first, last = struct.unpack("<QQ", os.pread(file, 16, segment.table_at + 8 * bucket))
    if first == last:
        return np.empty(0, DOCUMENT), 0
    before = min(first, 1)  # the entry before the first tells where that begins
    place = segment.index_at + (first - before) * DOCUMENT.itemsize
    entries = np.frombuffer(os.pread(file, (last - first + before) * DOCUMENT.itemsize, place), DOCUMENT)
    return entries[before:], int(entries["end"][0]) if before else 0


def read_tokens(segment: Segment, start: int, stop: int) -> np.ndarray:
    """Returns tokens [start, stop) of a segment, uint16."""
    file, size = _opened(segment.path).fileno(), 2 * (stop - start)
    data = os.pread(file, size, segment.tokens_at + 2 * start)
    if len(data) < size:
        raise OSError(f"{segment.path} ended before token {stop} of a segment of {segment.tokens}")
    return np.frombuffer(data, "<u2")


@functools.lru_cache(maxsize=256)
def _opened(path: str) -> BinaryIO:
    """Opens a run file for random reads; closes the least recently used if too many are open."""
    return open(path, "rb", buffering=0)


def close_all() -> None:
    """Closes the run files that reads left open: later the name may belong to another file."""
    _opened.cache_clear()
