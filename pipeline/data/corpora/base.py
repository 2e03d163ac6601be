"""The interface of corpus readers: list a source, cut it into units of work, stream the documents of each."""

import codecs
import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from pipeline import texts
from pipeline.data.format.settings import ShardConfig

UNIT_BYTES = 16 << 20  # of text, about: large enough to keep an engine busy, small enough to repeat
PIECE_BYTES = 4 << 20  # longer documents are streamed in pieces of this size, never held whole
SPELLINGS = {"train": {"train"}, "validation": {"validation", "valid", "val", "dev"}, "test": {"test"}}
PARTS = tuple(SPELLINGS)


class Readable(Protocol):
    """Anything with ``read``."""

    def read(self, size: int, /) -> bytes:
        """Returns up to ``size`` bytes, and b"" only at the end."""


class Document(NamedTuple):
    """A document; if longer than PIECE_BYTES, its text is an iterator of pieces, which may raise DropError."""

    id: str
    text: str | Iterator[str]
    part: str | None = None  # None: the salted hash of the id decides


class Dropped(NamedTuple):
    """A dropped document, and why; ``fault`` says where it cannot be read and what is wrong there."""

    id: str
    reason: str
    part: str | None = None
    fault: str = ""  # empty if a setting or a rule drops it


class DropError(Exception):
    """Raised while a long document streams: the document is dropped, with this reason and perhaps a fault."""

    def __init__(self, reason: str, fault: str = ""):
        super().__init__(reason)
        self.fault = fault


class Input(NamedTuple):
    """A file that a worker opens itself, or the range of it whose lines begin in [start, end)."""

    path: str
    name: str
    start: int = 0
    end: int | None = None
    part: str | None = None


@dataclass(frozen=True, kw_only=True)
class Unit:
    """The work of one journal entry: inputs to open, or blobs that the coordinator has read from a stream.

    ``size`` is the unit's share of the corpus's ``total_bytes``.
    """

    index: int
    size: int
    inputs: tuple[Input, ...] = ()
    blobs: tuple[tuple[str, bytes], ...] = ()


class Corpus(ABC):
    """A source, listed.

    Attributes:
        total_bytes: bytes of the source, for progress.
        text_bytes: bytes of text expected in it, for the disk check; an estimate if it is compressed.
        listing: digest of the names and sizes of the source's files, to detect another source at once.
        notes: what a user of the data set must know.
        own_parts: whether every document names its part.
        seconds: time spent so far, by activity.
    """

    own_parts = False
    _inputs: Sequence[tuple[Input, int]]  # with their sizes in bytes, in order

    def __init__(
        self, config: ShardConfig, files: Iterable[tuple[str, int]], expansion: float = 1.0, notes: tuple[str, ...] = ()
    ):
        listed = list(files)
        self.config, self.notes = config, notes
        self.seconds = {"decompressing": 0.0}
        self.total_bytes = sum(size for _, size in listed)
        self.text_bytes = int(self.total_bytes * expansion)
        self.listing = hashlib.sha256(repr(listed).encode()).hexdigest()

    def units(self) -> Iterator[Unit]:
        """Yields the units in the source's order; the same source gives the same units."""
        return grouped(self._inputs, UNIT_BYTES)

    def documents(self, unit: Unit) -> Iterator[Document | Dropped]:
        """Streams the documents of a unit in order; runs in a worker."""
        for item in unit.inputs:
            yield from self._documents(item)

    @abstractmethod
    def _documents(self, item: Input) -> Iterator[Document | Dropped]:
        """Streams the documents of an input in order."""

    def check_totals(self, documents: int) -> None:  # noqa: B027  (most corpora have nothing to compare with)
        """Compares totals, including dropped documents, with the published corpus; UserError if they differ."""

    def document(self, identity: str, text: str, part: str | None = None) -> Document | Dropped:
        """Removes a byte order mark, and applies the rules that drop documents."""
        text = text.removeprefix(texts.MARK)
        if not text or text.isspace():
            return Dropped(identity, "empty", part)
        if "\0" in text:
            return Dropped(identity, "NUL", part)
        if len(text) < self.config.minimum_characters:
            return Dropped(identity, f"under {self.config.minimum_characters} characters", part)
        return Document(identity, text, part)

    def from_bytes(self, identity: str, raw: bytes | memoryview, part: str | None = None) -> Document | Dropped:
        """Decodes UTF-8, then does what ``document`` does."""
        try:
            return self.document(identity, str(raw, "utf-8"), part)
        except UnicodeDecodeError as error:
            return Dropped(identity, "undecodable", part, undecodable(identity, error))

    def from_stream(
        self, identity: str, stream: Readable, size: int | None, part: str | None = None
    ) -> Document | Dropped:
        """Reads a stream of ``size`` bytes (None: unknown) as one document, in pieces if it is long."""
        head = stream.read(PIECE_BYTES)
        if size == len(head) or len(head) < PIECE_BYTES:
            return self.from_bytes(identity, head, part)
        return self.from_long(identity, head, stream, part)

    def from_long(self, identity: str, head: bytes, stream: Readable, part: str | None = None) -> Document:
        """A document whose first bytes are ``head`` and whose rest is in the stream."""
        return Document(identity, _pieces(identity, head, stream), part)


def undecodable(identity: str, error: UnicodeDecodeError, start: int = 0) -> str:
    """Says where a document is not UTF-8; ``start`` is the byte of the document at which decoding began."""
    if start + error.start == 0 and error.object[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return f"{identity} begins as UTF-16 does; expected UTF-8"
    return f"{identity} is not UTF-8 at its byte {start + error.start}: {error.reason}"


def _pieces(identity: str, head: bytes, stream: Readable) -> Iterator[str]:
    """Decodes a long document piece by piece; raises DropError if it turns out not to be text."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    raw, done, waiting = head, 0, 0
    try:
        while raw:
            text = decoder.decode(raw) if done else decoder.decode(raw).removeprefix(texts.MARK)
            done, waiting = done + len(raw), len(decoder.getstate()[0])
            if "\0" in text:
                raise DropError("NUL")
            yield text
            raw = stream.read(PIECE_BYTES)
        yield decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise DropError("undecodable", undecodable(identity, error, done - waiting)) from error


def grouped(inputs: Sequence[tuple[Input, int]], unit_bytes: int) -> Iterator[Unit]:
    """Groups (input, bytes) into units of about ``unit_bytes``, keeping their order."""
    group: list[Input] = []
    size = index = 0
    for item, item_bytes in inputs:
        if group and size + item_bytes > unit_bytes:
            yield Unit(index=index, size=size, inputs=tuple(group))
            group, size, index = [], 0, index + 1
        group.append(item)
        size += item_bytes
    if group:
        yield Unit(index=index, size=size, inputs=tuple(group))


def part_of_name(name: str) -> str | None:
    """The part that a file's name states ('wiki.valid.raw' → 'validation'), or None."""
    words = re.split(r"[-_/.]", name.lower())
    return next((part for part, spellings in SPELLINGS.items() if spellings.intersection(words)), None)


def train_texts(corpus: Corpus) -> Iterator[str]:
    """Yields the texts not known to be evaluation text, for training a tokenizer; long ones in pieces."""
    for unit in corpus.units():
        for item in corpus.documents(unit):
            if isinstance(item, Document) and item.part in (None, "train"):
                yield from [item.text] if isinstance(item.text, str) else item.text
