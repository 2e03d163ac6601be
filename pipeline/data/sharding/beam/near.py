"""Local copies of the parts of run files on gs:// that a step reads: sparse files with the same offsets.

Code that reads run files then works on them as on local ones. A shard needs the buckets under its block: a table, a
range of the index and a range of the tokens from each run file.
"""

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from pipeline import storage
from pipeline.data.sharding import sorted_runs
from pipeline.data.sharding.packing import Block
from pipeline.data.sharding.sorted_runs import Segment
from pipeline.data.sharding.stages import Footer, Job, Merged
from pipeline.data.sharding.token_stream import Stream

REQUESTS = 16  # at once
Ranges = Callable[[Segment], Iterable[tuple[int, int]]]  # of a segment: the [start, stop) bytes of its file


def merge(job: Job, footers: Sequence[Footer], folder: str) -> Merged:
    """``job.merge`` of run files that may lie on gs://."""
    if not any(storage.is_remote(segment.path) for segments, *_ in footers for segment in segments):
        return job.merge(footers)
    close = [(_copy(segments, folder, _index), counts, extra) for segments, counts, extra in footers]
    far = [segment for segments, *_ in footers for segment in segments]
    for part in sorted({segment.part for segment in far}):
        mine = [segment for segment in far if segment.part == part]
        stream = job.stream([_local(segment, folder) for segment in mine])
        _copy_tokens(job, mine, folder, job.packing.records(stream.tokens) * job.packing.stride, stream.tokens)
    merged = job.merge(close)
    places = {os.path.basename(segment.path): segment.path for segment in far}
    segments: Mapping[str, Sequence[Segment]] = {
        part: [segment._replace(path=places[os.path.basename(segment.path)]) for segment in part_segments]
        for part, part_segments in merged.segments.items()
    }
    return dataclasses.replace(merged, segments=segments)


def stream_of(job: Job, merged: Merged, block: Block, folder: str) -> Stream:
    """The stream of a block's part; at least the block is readable."""
    segments = merged.segments[block.part]
    if not any(storage.is_remote(segment.path) for segment in segments):
        return job.stream(segments)
    _copy(segments, folder, _table)
    start = block.first * job.packing.stride
    return _copy_tokens(job, segments, folder, start, start + block.count * job.packing.stride + 1)


def _copy_tokens(job: Job, segments: Sequence[Segment], folder: str, start: int, stop: int) -> Stream:
    """Copies the buckets under tokens [start, stop) of the stream, whose tables are local."""
    here = [_local(segment, folder) for segment in segments]
    stream = job.stream(here)
    buckets = stream.buckets(start, stop)
    by_hash = job.config.order == "hash"
    numbers = {segment: number for number, segment in enumerate(segments)}

    def ranges(segment: Segment) -> list[tuple[int, int]]:
        documents = tokens = (0, 0)
        if by_hash:
            first_documents, first_tokens = sorted_runs.read_table(_local(segment, folder))
            documents = (int(first_documents[buckets.start]), int(first_documents[buckets.stop]))
            tokens = (int(first_tokens[buckets.start]), int(first_tokens[buckets.stop]))
        elif numbers[segment] in buckets:
            documents, tokens = (0, segment.documents), (0, segment.tokens)
        entry, before = sorted_runs.DOCUMENT.itemsize, min(documents[0], 1)
        return [
            (segment.index_at + (documents[0] - before) * entry, segment.index_at + documents[1] * entry),
            (segment.tokens_at + 2 * tokens[0], segment.tokens_at + 2 * tokens[1]),
        ]

    _copy(segments, folder, ranges)
    return stream


def _table(segment: Segment) -> list[tuple[int, int]]:
    return [(segment.table_at, segment.table_at + sorted_runs.TABLE_BYTES)]


def _index(segment: Segment) -> list[tuple[int, int]]:
    return [(segment.index_at, segment.table_at + sorted_runs.TABLE_BYTES)]


def _local(segment: Segment, folder: str) -> Segment:
    return segment._replace(path=os.path.join(folder, os.path.basename(segment.path)))


def _copy(segments: Sequence[Segment], folder: str, ranges: Ranges) -> list[Segment]:
    """Copies ranges of the segments' files to the same offsets in files in ``folder``; returns these segments."""

    def copy(segment: Segment) -> Segment:
        here = _local(segment, folder)
        nonempty = [(start, stop) for start, stop in ranges(segment) if stop > start]
        if nonempty:
            descriptor = os.open(here.path, os.O_WRONLY | os.O_CREAT, 0o666)
            with storage.open_read(segment.path) as source, os.fdopen(descriptor, "wb", buffering=0) as target:
                for start, stop in nonempty:
                    source.seek(start)
                    os.pwrite(target.fileno(), source.read(stop - start), start)
        return here

    with ThreadPoolExecutor(REQUESTS) as pool:
        return list(pool.map(copy, segments))
