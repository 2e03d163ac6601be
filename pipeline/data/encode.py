"""The first of the sharder's two kinds of unit: the documents of a unit to one run file, tokenized and sorted.

Memory is bounded by BATCH_CHARACTERS of text and SEGMENT_TOKENS of tokens, however long a document is.
"""

import hashlib
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import BinaryIO, NamedTuple

import google_crc32c
import numpy as np

from pipeline.data.corpora.base import PIECE_BYTES, Corpus, Document, DropError, Dropped, Unit
from pipeline.data.runs import Counts, RunWriter
from pipeline.data.settings import ShardConfig
from pipeline.data.tokenizer import Tokenizer, split_point

BATCH_CHARACTERS = 2 << 20
SEGMENT_TOKENS = 8 << 20
WHOLE_CHARACTERS = 16 << 20  # the longest text that a tokenizer which cannot be split is given
SAMPLE_CHARACTERS = 16 << 10  # of every unit, encoded by the oracle as well


class EngineMismatchError(RuntimeError):
    """The bulk engine and the oracle gave different ids for the same text."""


class Encoded(NamedTuple):
    """A tokenized document that waits in the buffer."""

    part: str
    key: int
    content: int
    tokens: np.ndarray


def salted_hash(seed: int, identity: str) -> tuple[int, int]:
    """Two independent 64-bit hashes of a document's id: the first orders the corpus, the second splits it."""
    salt = (seed % (1 << 64)).to_bytes(8, "little")
    digest = hashlib.blake2b(identity.encode("utf-8", "surrogateescape"), digest_size=16, salt=salt).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


def count_words(raw: bytes, word_rule: str, after_space: bool = True) -> int:
    """Counts the words that begin in UTF-8 text: runs without ASCII white space, and by the other rule newlines too."""
    data = np.frombuffer(raw, np.uint8)
    space = (data == 32) | ((data - np.uint8(9)) < 5)
    words = int(np.count_nonzero(space[:-1] > space[1:])) + int(bool(raw) and after_space and not space[0])
    return words + (raw.count(b"\n") if word_rule == "whitespace+newline" else 0)


class UnitEncoder:
    """Encodes one unit into one run file."""

    def __init__(self, config: ShardConfig, tokenizer: Tokenizer, file: BinaryIO):
        self._config, self._tokenizer = config, tokenizer
        self._writer = RunWriter(file)
        self._counts: dict[str, Counts] = {}
        self._batch: list[tuple[Document, str, int]] = []  # document, part, key
        self._batch_characters = 0
        self._buffer: list[Encoded] = []
        self._buffered = 0
        self._to_sample = SAMPLE_CHARACTERS
        fraction = config.validation_fraction or 0.0
        self._validation_below = int(fraction * (1 << 64))

    def run(self, corpus: Corpus, unit: Unit) -> dict[str, Counts]:
        """Reads, encodes and writes the unit; returns its counts by part.

        Raises:
            EngineMismatchError: on a sample of the unit's documents, the bulk engine differs from the oracle.
        """
        began, before = time.perf_counter(), dict(corpus.seconds)
        for item in corpus.documents(unit):
            key, split = salted_hash(self._config.seed, item.id)
            part = item.part or ("validation" if split < self._validation_below else "train")
            if isinstance(item, Dropped):
                self._count(part).drop(item.reason)
            elif isinstance(item.text, str) and len(item.text) <= PIECE_BYTES:
                self._batch.append((item, part, key))
                self._batch_characters += len(item.text)
                if self._batch_characters >= BATCH_CHARACTERS:
                    self._encode_batch()
            else:
                self._encode_batch()
                self._flush()  # in the source's order, what came before goes first
                self._encode_long(item, part, key)
        self._encode_batch()
        self._flush()
        seconds = {what: total - before[what] for what, total in corpus.seconds.items()}
        seconds["all"] = time.perf_counter() - began
        self._writer.finish(self._counts, {"size": unit.size, "seconds": seconds})
        return self._counts

    def _count(self, part: str) -> Counts:
        return self._counts.setdefault(part, Counts())

    def _account(self, part: str, identity: str, content: int, tokens: int) -> None:
        """Counts a document; the digest is that of its id and content."""
        count = self._count(part)
        count.documents += 1
        count.tokens += tokens
        told = f"{part}\0{identity}\0{content}".encode("utf-8", "surrogateescape")
        digest = int.from_bytes(hashlib.blake2b(told, digest_size=16).digest(), "little")
        count.digest = (count.digest + digest) % (1 << 128)

    def _encode_batch(self) -> None:
        if not self._batch:
            return
        texts = [document.text for document, _, _ in self._batch]
        raws = [text.encode() for text in texts]  # type: ignore[union-attr]
        for part in {part for _, part, _ in self._batch}:
            mine = [raw for raw, (_, its_part, _) in zip(raws, self._batch, strict=True) if its_part == part]
            joined = b"\n".join(mine)
            self._count(part).utf8_bytes += len(joined) - (len(mine) - 1)
            words = count_words(joined, self._config.word_rule)
            self._count(part).words += words - ("newline" in self._config.word_rule) * (len(mine) - 1)
        pack = self._lines if self._config.packing == "lines" else self._contiguous
        packed = pack(texts, [part for _, part, _ in self._batch])  # type: ignore[arg-type]
        for (document, part, key), raw, tokens in zip(self._batch, raws, packed, strict=True):
            if not len(tokens):
                self._count(part).drop("empty")
                continue
            content = google_crc32c.value(raw) << 32 | len(raw) & 0xFFFFFFFF
            self._account(part, document.id, content, len(tokens))
            self._buffer.append(Encoded(part, key, content, tokens))
            self._buffered += len(tokens)
        self._batch, self._batch_characters = [], 0
        if self._buffered >= SEGMENT_TOKENS:
            self._flush()

    def _engine(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Encodes in bulk, and on the unit's first texts compares with the oracle."""
        ids, offsets = self._tokenizer.encode_batch(texts)
        for text, start, stop in zip(texts, offsets, offsets[1:], strict=False):
            if self._to_sample <= 0:
                break
            cut = len(text)
            if cut > self._to_sample and self._tokenizer.splittable:
                cut = split_point(text, self._to_sample) or cut
            self._to_sample -= cut
            expected = self._tokenizer.encode(text[:cut])
            found = ids[start:stop] if cut == len(text) else ids[start : start + len(expected)]
            if not np.array_equal(found, expected):
                raise EngineMismatchError(
                    f"the bulk engine and the library `tokenizers` disagree on a text that begins {text[:60]!r}"
                )
        return ids, offsets

    def _contiguous(self, texts: list[str], parts: list[str]) -> list[np.ndarray]:
        """Returns each text's ids and an end-of-text, as views of one uint16 array."""
        ids, offsets = self._engine(texts)
        ends = offsets[1:] + np.arange(1, len(offsets))
        tokens = np.empty(len(ids) + len(texts), np.uint16)
        is_text = np.ones(len(tokens), bool)
        is_text[ends - 1] = False
        tokens[is_text] = ids
        tokens[ends - 1] = self._tokenizer.end_of_text
        places = [0, *ends.tolist()]
        return [tokens[start:stop] for start, stop in pairwise(places)]

    def _lines(self, texts: list[str], parts: list[str]) -> list[np.ndarray]:
        """Returns for each text one row of context + 1 ids a line that is not blank, padded or truncated."""
        width, end = self._config.context + 1, self._tokenizer.end_of_text
        lines_of = [[line for line in text.splitlines() if line and not line.isspace()] for text in texts]
        ids, offsets = self._engine([line for lines in lines_of for line in lines])
        rows = np.full((len(offsets) - 1, width), end, np.uint16)
        for row, (start, stop) in zip(rows, pairwise(offsets), strict=True):
            row[: stop - start] = ids[start:stop][:width]
        packed, first = [], 0
        for lines, part in zip(lines_of, parts, strict=True):
            lengths = np.diff(offsets[first : first + len(lines) + 1]) + 1
            self._count(part).truncated_tokens += int(np.maximum(lengths - width, 0).sum())
            self._count(part).padding_tokens += int(np.maximum(width - lengths, 0).sum())
            packed.append(rows[first : first + len(lines)].reshape(-1))
            first += len(lines)
        return packed

    def _flush(self) -> None:
        """Writes the buffer as one sorted segment a part."""
        for part in sorted({document.part for document in self._buffer}):
            documents = [document for document in self._buffer if document.part == part]
            if self._config.order == "hash":
                documents.sort(key=lambda document: document.key)  # stable: equal ids keep the source's order
            self._writer.begin()
            self._writer.append([document.tokens for document in documents])
            self._end(part, documents, np.array([len(document.tokens) for document in documents]))
        self._buffer, self._buffered = [], 0

    def _end(self, part: str, documents: list[Encoded], lengths: np.ndarray) -> None:
        by_hash = self._config.order == "hash"
        keys = np.array([document.key if by_hash else 0 for document in documents], np.uint64)
        contents = np.array([document.content for document in documents], np.uint64)
        self._writer.end(part, keys, contents, lengths)

    def _encode_long(self, document: Document, part: str, key: int) -> None:
        """Streams a long document into a segment of its own."""
        pieces = iter([document.text]) if isinstance(document.text, str) else document.text
        crc = size = tokens = words = 0
        before = (self._count(part).truncated_tokens, self._count(part).padding_tokens)
        after_space = True
        self._writer.begin()
        try:
            for text in self._pieces(pieces):
                raw = text.encode()
                crc, size = google_crc32c.extend(crc, raw), size + len(raw)
                words += count_words(raw, self._config.word_rule, after_space)
                after_space = raw[-1] in b" \t\n\v\f\r"
                if self._config.packing == "lines":
                    (packed,) = self._lines([text], [part])
                else:
                    packed = self._engine([text])[0].astype(np.uint16)
                self._writer.append([packed])
                tokens += len(packed)
        except DropError as reason:
            self._writer.cancel()
            self._count(part).truncated_tokens, self._count(part).padding_tokens = before
            self._count(part).drop(str(reason))
            return
        if self._config.packing == "contiguous":
            self._writer.append([np.array([self._tokenizer.end_of_text], np.uint16)])
            tokens += 1
        content = crc << 32 | size & 0xFFFFFFFF
        self._count(part).utf8_bytes += size
        self._count(part).words += words
        self._account(part, document.id, content, tokens)
        self._end(part, [Encoded(part, key, content, np.empty(0, np.uint16))], np.array([tokens]))

    def _pieces(self, texts: Iterator[str]) -> Iterator[str]:
        """Cuts a long text where it may be encoded apart."""
        longest = PIECE_BYTES if self._tokenizer.splittable else WHOLE_CHARACTERS
        text = ""
        for more in texts:
            text += more
            while len(text) > longest:
                if self._config.packing == "lines":
                    cut = text.rfind("\n", 0, longest) + 1
                else:
                    cut = split_point(text, longest) if self._tokenizer.splittable else 0
                if not cut:
                    raise DropError(f"over {longest} characters that cannot be encoded apart")
                yield text[:cut]
                text = text[cut:]
        if text:
            yield text
