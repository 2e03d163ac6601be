"""OpenWebText, in every published form: one .txt per document, in tar.xz archives, in a tar.

The source is ``openwebtext.tar.xz``, a directory of its inner archives (``urlsf_subset00-1_data.xz``), or a mirror's
plain tars of them. The outer archive is one stream. The coordinator reads it and hands the inner archives, still
compressed, to the workers. Source: Gokaslan and Cohen 2019, OpenWebText Corpus.
"""

import hashlib
import io
import time
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from pipeline import storage
from pipeline.data.corpora.archives import Member, is_unsafe, members
from pipeline.data.corpora.base import Corpus, Document, Dropped, Input, Unit, grouped
from pipeline.data.corpora.listing import File, find, kind_passed_over, note_of
from pipeline.data.corpora.sources import decompress, open_text, reading
from pipeline.data.format.settings import ShardConfig
from pipeline.errors import UserError

EXPANSION = 3.1  # bytes of text per byte of the archives
UNIT_BYTES = 5 << 20  # of compressed archives, about 16 MB of text


class Published(NamedTuple):
    """The totals of the published corpus, including documents that are empty or NUL."""

    documents: int = 8_013_769
    archives: int = 20_610
    sha256: str = "9fe39d154c5bc67da8c359415372b79510eb1e2edb0d035fe4f7fc3a732b9336"
    least_bytes: int = 12_800_000_000


class OpenWebText(Corpus):
    """Documents are the members of the inner archives; their ids are archive and member, so order is stable."""

    published = Published()

    def __init__(self, config: ShardConfig, source: str | None):
        files, self._listing_notes = find(source, (".tar", ".tar.xz", "_data.xz", ".xz"), config.name)
        super().__init__(config, [(file.name, file.size) for file in files], EXPANSION, self._listing_notes)
        self._inputs = [(Input(file.path, file.name), file.size) for file in files]
        self._outer = [file for file in files if file.name.lower().endswith((".tar", ".tar.xz"))]
        if self._outer and len(self._outer) < len(files):
            raise UserError(f"--source={source} mixes outer archives (*.tar, *.tar.xz) with inner ones (*.xz)")
        whole = self.total_bytes >= self.published.least_bytes
        self._is_published = whole and (not self._outer or len(self._outer) in (1, 21))
        self._archives = 0 if self._outer else len(files)

    def units(self) -> Iterator[Unit]:
        """Groups inner archives into units; reads an outer archive here, once, and puts its members into the units."""
        return self._from_outer() if self._outer else grouped(self._inputs, UNIT_BYTES)

    def _from_outer(self) -> Iterator[Unit]:
        blobs: list[tuple[str, bytes]] = []
        passed_over: list[tuple[str, str]] = []
        size = index = self._archives = 0
        for file in self._outer:
            for member in self._inner_archives(file, passed_over):
                blobs.append((member.name, member.read()))
                size += len(blobs[-1][1])
                if size >= UNIT_BYTES:
                    yield Unit(index=index, size=size, blobs=tuple(blobs))
                    blobs, size, index = [], 0, index + 1
        if blobs:
            yield Unit(index=index, size=size, blobs=tuple(blobs))
        self.notes = self._listing_notes + note_of(passed_over)

    def _inner_archives(self, file: File, passed_over: list[tuple[str, str]]) -> Iterator[Member]:
        """Reads an outer archive, and checks its sha256 if it is the published one."""
        count = 0
        with reading(file.path), storage.open_read(file.path) as opened:
            raw = _Hashed(opened) if self._is_published and len(self._outer) == 1 else opened
            for member in members(decompress(raw, file.path), file.path):  # type: ignore[arg-type]
                if kind := kind_passed_over(member.name):
                    passed_over.append((kind, member.name))
                elif member.name.endswith(".xz"):
                    count += 1
                    yield member
                elif member.size:
                    raise UserError(f"{file.path}: member {member.name!r} is not an inner archive (*.xz)")
            if isinstance(raw, _Hashed) and (digest := raw.hexdigest()) != self.published.sha256:
                raise UserError(f"{file.path} has sha256 {digest}, but the published one has {self.published.sha256}")
        if not count:
            raise UserError(f"{file.path} holds no inner archive (*.xz)")
        self._archives += count

    def documents(self, unit: Unit) -> Iterator[Document | Dropped]:
        """Yields the texts in the inner archives."""
        for name, data in unit.blobs:
            with reading(f"inner archive {name!r}"):
                yield from self._members(name, decompress(io.BytesIO(data), name))
        yield from super().documents(unit)

    def _documents(self, item: Input) -> Iterator[Document | Dropped]:
        with reading(item.path), open_text(item.path) as opened:
            yield from self._members(item.name, opened)

    def _members(self, archive: str, opened: BinaryIO) -> Iterator[Document | Dropped]:
        place = archive.rpartition("/")[2]
        for member in members(_Timed(opened, self.seconds), archive):  # type: ignore[arg-type]
            identity = f"{place}/{member.name}"
            if is_unsafe(member.name):
                yield Dropped(identity, "unsafe member name")
            elif kind := kind_passed_over(member.name):
                yield Dropped(identity, kind)
            elif member.name.endswith(".txt"):
                yield self.from_stream(identity, member, member.size)
            else:
                yield Dropped(identity, "not .txt")

    def check_totals(self, documents: int) -> None:
        """Compares documents and inner archives with the published corpus, if that is the source."""
        if not self._is_published:
            return
        for what, count, expected in (
            ("inner archives", self._archives, self.published.archives),
            ("documents", documents, self.published.documents),
        ):
            if count != expected:
                raise UserError(f"the source has {count:,} {what}, but the published OpenWebText has {expected:,}")


class _Hashed(io.RawIOBase):
    """A stream that computes the sha256 of what passes through."""

    def __init__(self, raw: BinaryIO):
        self._raw, self._sha256 = raw, hashlib.sha256()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._raw.read(size)
        self._sha256.update(data)
        return data

    def hexdigest(self) -> str:
        """Reads the rest and returns the digest of everything."""
        while self.read(1 << 20):
            pass
        return self._sha256.hexdigest()


class _Timed:
    """A stream that sums the seconds spent in its decompression."""

    def __init__(self, stream: BinaryIO, seconds: dict[str, float]):
        self._stream, self._seconds = stream, seconds

    def read(self, size: int) -> bytes:
        began = time.perf_counter()
        data = self._stream.read(size)
        self._seconds["decompressing"] += time.perf_counter() - began
        return data
