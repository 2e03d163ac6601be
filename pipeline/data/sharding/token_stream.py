"""The token stream of a part, merged from run files: reads any range in memory that does not grow with its length."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from pipeline.data.sharding import sorted_runs
from pipeline.data.sharding.sorted_runs import Segment

CHUNK_TOKENS = 1 << 20
MAXIMUM_COMPARED = 4 << 20  # evaluation documents whose text is compared with the train part's


class Stream:
    """All documents of one part, ordered by key, then by the source's order.

    Attributes:
        tokens: its length.
    """

    def __init__(self, segments: Sequence[Segment], order: str):
        """Takes segments in the source's order; ``order`` is 'hash' or 'source'."""
        self._segments, self._by_hash = list(segments), order == "hash"
        if self._by_hash:
            sizes = np.zeros(sorted_runs.BUCKETS, np.int64)
            for segment in self._segments:
                sizes += np.diff(sorted_runs.read_table(segment)[1])
        else:  # every segment is a separate bucket
            sizes = np.array([segment.tokens for segment in self._segments], np.int64)
        self._starts = np.concatenate([[0], np.cumsum(sizes)])
        self.tokens = int(self._starts[-1])

    def read(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """Yields tokens [start, stop) of the stream as uint16 arrays of about CHUNK_TOKENS."""
        for bucket in self.buckets(start, stop):
            base = int(self._starts[bucket])
            if self._starts[bucket + 1] > max(base, start):
                yield from self._read_bucket(bucket, max(start - base, 0), stop - base)

    def buckets(self, start: int, stop: int) -> range:
        """The buckets under tokens [start, stop); empty ones may be among them."""
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        return range(max(first, 0), min(int(np.searchsorted(self._starts, stop)), len(self._starts) - 1))

    def contents(self) -> Iterator[np.ndarray]:
        """Yields the content hashes of the documents, segment by segment."""
        for segment in self._segments:
            yield sorted_runs.read_index(segment, None)[0]["content"]

    def _index(self, bucket: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns (segment, first token in it, length) of a bucket's documents, in the stream's order."""
        numbers = range(len(self._segments)) if self._by_hash else (bucket,)
        keys, owners, begins, lengths = [], [], [], []
        for number in numbers:
            entries, before = sorted_runs.read_index(self._segments[number], bucket if self._by_hash else None)
            if len(entries):
                ends = entries["end"].astype(np.int64)
                starts = np.concatenate([[before], ends[:-1]])
                keys.append(entries["key"])
                owners.append(np.full(len(entries), number))
                begins.append(starts)
                lengths.append(ends - starts)
        order = np.argsort(np.concatenate(keys), kind="stable")
        return np.concatenate(owners)[order], np.concatenate(begins)[order], np.concatenate(lengths)[order]

    def _read_bucket(self, bucket: int, start: int, stop: int) -> Iterator[np.ndarray]:
        """Yields tokens [start, stop) of a bucket."""
        owners, begins, lengths = self._index(bucket)
        ends = np.cumsum(lengths)
        stop = min(stop, int(ends[-1]))
        document = int(np.searchsorted(ends, start, side="right"))
        while start < stop:
            goal = min(start + CHUNK_TOKENS, stop)
            last = int(np.searchsorted(ends, goal, side="right"))  # the documents before it end by the goal
            if last > document and start == ends[document] - lengths[document]:
                yield self._read_documents(owners[document:last], begins[document:last], lengths[document:last])
                start, document = int(ends[last - 1]), last
            else:  # a part of one document
                inside = start - int(ends[document] - lengths[document])
                count = min(int(ends[document]), goal) - start
                begin = int(begins[document]) + inside
                yield sorted_runs.read_tokens(self._segments[owners[document]], begin, begin + count)
                start += count
                document += start == ends[document]

    def _read_documents(self, owners: np.ndarray, begins: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Returns whole documents, one after the other. A segment's documents are adjacent: one read per segment."""
        pieces: dict[int, tuple[np.ndarray, int]] = {}
        by_owner = np.argsort(owners, kind="stable")
        changes = np.flatnonzero(np.diff(owners[by_owner])) + 1
        for group in np.split(by_owner, changes):
            low, high = int(begins[group[0]]), int(begins[group[-1]] + lengths[group[-1]])
            owner = int(owners[group[0]])
            pieces[owner] = (sorted_runs.read_tokens(self._segments[owner], low, high), low)
        slices = []
        for owner, begin, length in zip(owners.tolist(), begins.tolist(), lengths.tolist(), strict=True):
            tokens, low = pieces[owner]
            slices.append(tokens[begin - low : begin - low + length])
        return np.concatenate(slices)


def shared_texts(streams: Mapping[str, Stream]) -> tuple[str, ...]:
    """Notes how many texts of the evaluation parts are in the train part too.

    A document's id puts it in only one part; this finds equal texts with different ids, by checksum and length.
    """
    notes = []
    for part in streams:
        if part == "train" or "train" not in streams:
            continue
        held_out = np.unique(np.concatenate(list(streams[part].contents())))
        if len(held_out) > MAXIMUM_COMPARED:
            notes.append(f"{part} has too many documents to compare their text with the train part's")
            continue
        seen = np.zeros(len(held_out), bool)
        for contents in streams["train"].contents():
            seen |= np.isin(held_out, contents)
        if seen.any():
            notes.append(f"{int(seen.sum())} of {len(held_out)} texts of {part} are in the train part too")
    return tuple(notes)
