"""Stage (a): tokenizes and sorts the documents of a unit into one run file.

Memory is bounded by BATCH_CHARACTERS of text and SEGMENT_TOKENS of tokens, however long a document is.
"""

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import BinaryIO, NamedTuple

import google_crc32c
import numpy as np

from pipeline.data.corpora.base import PARTS, PIECE_BYTES, Corpus, Document, DropError, Dropped, Unit
from pipeline.data.format import fidelity
from pipeline.data.format.hashing import count_words, fingerprint, name_hash, salted
from pipeline.data.format.settings import ShardConfig
from pipeline.data.format.tokenizer import Tokenizer, split_point
from pipeline.data.sharding.sorted_runs import Counts, RunWriter
from pipeline.texts import lines

BATCH_CHARACTERS = 1 << 19  # small enough for the processor's cache
SEGMENT_TOKENS = 4 << 20
WHOLE_CHARACTERS = 16 << 20  # the longest text for a tokenizer that cannot split texts
SAMPLE_CHARACTERS = 2 << 10  # of every unit, also encoded by the oracle


class Encoded(NamedTuple):
    """Tokenized documents in the buffer: document d has tokens[ends[d - 1]:ends[d]]."""

    parts: np.ndarray  # uint8 [documents], indices of PARTS
    names: np.ndarray  # uint64 [documents, 2]
    contents: np.ndarray  # uint64 [documents]
    tokens: np.ndarray  # uint16
    ends: np.ndarray  # int64 [documents]


class UnitEncoder:
    """Encodes one unit into one run file."""

    def __init__(self, config: ShardConfig, tokenizer: Tokenizer, file: BinaryIO):
        self._config, self._tokenizer = config, tokenizer
        self._writer = RunWriter(file)
        self._counts: dict[str, Counts] = defaultdict(Counts)
        self._faults: dict[str, str] = {}  # the first of each reason
        self._batch: list[Document] = []
        self._batch_characters = 0
        self._buffer: list[Encoded] = []
        self._buffered = 0
        self._to_sample = SAMPLE_CHARACTERS
        self._validation_below = np.uint64(int((config.validation_fraction or 0.0) * (1 << 64)))
        self._end_of_text = np.array([tokenizer.end_of_text], np.uint16)

    def run(self, corpus: Corpus, unit: Unit) -> dict[str, Counts]:
        """Reads, encodes and writes the unit; returns its counts by part.

        Raises:
            UserError: a document's tokens do not stand for its bytes, or the bulk engine differs from the oracle on a
                sample of the unit's documents.
        """
        began, before = time.perf_counter(), dict(corpus.seconds)
        for item in corpus.documents(unit):
            if isinstance(item, Dropped):
                self._drop(PARTS[int(self._parts([item])[0])], item.reason, item.fault)
            elif isinstance(item.text, str) and len(item.text) <= PIECE_BYTES:
                self._batch.append(item)
                self._batch_characters += len(item.text)
                if self._batch_characters >= BATCH_CHARACTERS:
                    self._encode_batch()
            else:
                self._encode_batch()
                self._flush()  # keep the source's order: write what came before
                self._encode_long(item)
        self._encode_batch()
        self._flush()
        seconds = {what: total - before[what] for what, total in corpus.seconds.items()}
        seconds["all"] = time.perf_counter() - began
        self._writer.finish(self._counts, {"size": unit.size, "seconds": seconds, "faults": self._faults})
        return self._counts

    def _drop(self, part: str, reason: str, fault: str) -> None:
        self._counts[part].drop(reason)
        if fault:
            self._faults.setdefault(reason, fault)

    @staticmethod
    def _names(items: Sequence[Document | Dropped]) -> np.ndarray:
        return np.frombuffer(b"".join([name_hash(item.id) for item in items]), "<u8").reshape(-1, 2)

    def _parts(self, items: Sequence[Document | Dropped], names: np.ndarray | None = None) -> np.ndarray:
        """Each document's part, as an index of PARTS: its own, or the one that the salted hash of its id selects."""
        if items[0].part is not None:
            return np.array([PARTS.index(item.part or "train") for item in items], np.uint8)
        names = self._names(items) if names is None else names
        return (salted(names, self._config.seed)[:, 1] < self._validation_below).astype(np.uint8)

    def _keys(self, names: np.ndarray) -> np.ndarray:
        """The documents' sort keys: a salted hash, or nothing."""
        return salted(names, self._config.seed)[:, 0] * np.uint64(self._config.order == "hash")

    def _encode_batch(self) -> None:
        if not self._batch:
            return
        texts: list[str] = [document.text for document in self._batch]  # type: ignore[misc]
        raws = [text.encode() for text in texts]
        names = self._names(self._batch)
        parts = self._parts(self._batch, names)
        for part in np.unique(parts):
            self._count_text(PARTS[part], [raws[i] for i in np.flatnonzero(parts == part).tolist()])
        crc32c = google_crc32c.value
        contents = np.array([crc32c(raw) << 32 | len(raw) & 0xFFFFFFFF for raw in raws], np.uint64)
        tokens, ends = self._pack(texts, self._batch, parts)
        self._buffer.append(Encoded(parts, names, contents, tokens, ends))
        self._buffered += len(tokens)
        self._batch, self._batch_characters = [], 0
        if self._buffered >= SEGMENT_TOKENS:
            self._flush()

    def _count_text(self, part: str, raws: list[bytes]) -> None:
        """Counts the bytes and words of documents, all at once."""
        joined, count = b"\n".join(raws), self._counts[part]
        between = len(raws) - 1  # newlines that are not theirs
        count.utf8_bytes += len(joined) - between
        count.words += count_words(joined, self._config.word_rule)
        count.words -= between if self._config.word_rule == "whitespace+newline" else 0

    def _engine(self, texts: list[str], documents: Sequence[Document]) -> tuple[np.ndarray, np.ndarray]:
        """Encodes in bulk; checks each text's number of bytes, and the unit's first texts with the oracle."""
        ids, offsets = self._tokenizer.encode_batch(texts)
        fidelity.check_bytes(self._tokenizer, texts, ids, offsets, [item.id for item in documents])
        for text, start, stop in zip(texts, offsets, offsets[1:], strict=False):
            if self._to_sample <= 0:
                break
            cut = len(text)
            if cut > self._to_sample and self._tokenizer.splittable:
                cut = split_point(text, self._to_sample) or cut
            self._to_sample -= cut
            fidelity.compare(self._tokenizer, text[:cut], ids[start:stop], whole=cut == len(text))
        return ids, offsets

    def _pack(
        self, texts: list[str], documents: Sequence[Document], parts: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the ids of all texts as the packing needs them, and where each text ends."""
        if self._config.packing == "lines":
            return self._lines(texts, documents, parts)
        ids, offsets = self._engine(texts, documents)
        return ids.astype(np.uint16), offsets[1:]  # still without end-of-text

    def _lines(
        self, texts: list[str], documents: Sequence[Document], parts: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns a row of context + 1 ids for each line that is not blank, padded or cut off, and each text's end."""
        width = self._config.context + 1
        lines_of = [[line for line in lines(text) if line and not line.isspace()] for text in texts]
        owners = [item for item, lines in zip(documents, lines_of, strict=True) for _ in lines]
        ids, offsets = self._engine([line for lines in lines_of for line in lines], owners)
        rows = np.full((len(offsets) - 1, width), self._end_of_text, np.uint16)
        for row, (start, stop) in zip(rows, pairwise(offsets), strict=True):
            row[: stop - start] = ids[start:stop][:width]
        lengths = np.diff(offsets) + 1
        part_of_line = np.repeat(parts, [len(lines) for lines in lines_of])
        for part in np.unique(part_of_line):
            mine, count = lengths[part_of_line == part], self._counts[PARTS[part]]
            count.truncated_tokens += int(np.maximum(mine - width, 0).sum())
            count.padding_tokens += int(np.maximum(width - mine, 0).sum())
        return rows.reshape(-1), np.cumsum([len(lines) * width for lines in lines_of])

    def _flush(self) -> None:
        """Writes the buffer as one sorted segment per part."""
        if not self._buffer:
            return
        parts, names, contents, tokens, _ = map(np.concatenate, zip(*self._buffer, strict=True))
        ends = np.cumsum(np.concatenate([np.diff(batch.ends, prepend=0) for batch in self._buffer]))
        self._buffer, self._buffered = [], 0
        keys = self._keys(names)
        last = [self._end_of_text] if self._config.packing == "contiguous" else []
        for part in np.unique(parts):
            chosen = np.flatnonzero(parts == part)
            chosen = chosen[np.argsort(keys[chosen], kind="stable")]  # equal ids keep the source's order
            starts = (ends[chosen - 1] * (chosen > 0)).tolist()
            pieces = []
            for start, stop in zip(starts, ends[chosen].tolist(), strict=True):
                pieces += [tokens[start:stop], *last]
            self._writer.begin()
            self._writer.append(np.concatenate(pieces))
            lengths = ends[chosen] - np.array(starts) + len(last)
            self._end(PARTS[part], keys[chosen], names[chosen], contents[chosen], lengths)

    def _end(self, part: str, keys: np.ndarray, names: np.ndarray, contents: np.ndarray, lengths: np.ndarray) -> None:
        """Closes the segment of these documents, and counts them."""
        count = self._counts[part]
        count.documents += len(keys)
        count.tokens += int(lengths.sum())
        count.add_fingerprint(fingerprint(names, contents))
        self._writer.end(part, keys, contents, lengths)

    def _encode_long(self, document: Document) -> None:
        """Streams a long document into a segment of its own."""
        names = self._names([document])
        parts = self._parts([document], names)
        part = PARTS[parts[0]]
        pieces = iter([document.text]) if isinstance(document.text, str) else document.text
        crc = size = tokens = words = 0
        before = (self._counts[part].truncated_tokens, self._counts[part].padding_tokens)
        after_space = True
        self._writer.begin()
        try:
            for text in self._pieces(pieces):
                raw = text.encode()
                crc, size = google_crc32c.extend(crc, raw), size + len(raw)
                words += count_words(raw, self._config.word_rule, after_space)
                after_space = raw[-1] in b" \t\n\v\f\r"
                packed, _ = self._pack([text], [document], parts)
                self._writer.append(packed)
                tokens += len(packed)
        except DropError as reason:
            self._writer.cancel()
            self._counts[part].truncated_tokens, self._counts[part].padding_tokens = before
            self._drop(part, str(reason), reason.fault)
            return
        if self._config.packing == "contiguous":
            self._writer.append(self._end_of_text)
            tokens += 1
        self._counts[part].utf8_bytes += size
        self._counts[part].words += words
        contents = np.array([crc << 32 | size & 0xFFFFFFFF], np.uint64)
        self._end(part, self._keys(names), names, contents, np.array([tokens]))

    def _pieces(self, texts: Iterator[str]) -> Iterator[str]:
        """Cuts a long text into separable pieces."""
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
