"""Checks every shard of a data set against its manifest: size, crc32c, framing, checksums, token ids, totals.

    python -m tools.verify --data=data/wikitext-2 [--workers=N]

Exit code 0 if there is no fault. Otherwise 1, with the file, record and byte offset of the first fault of each kind.
"""

import os
import sys
from collections.abc import Iterator
from typing import NamedTuple

from absl import flags

from pipeline import cli
from pipeline.data.format.manifest import Manifest, Shard, load, read_tokenizer
from pipeline.errors import UserError

FLAGS = flags.FLAGS
CHUNK_RECORDS = 4096  # records in memory at a time: 8.6 MB


class Fault(NamedTuple):
    """A fault of a shard; a record of -1 means the whole file."""

    kind: str
    file: str
    record: int
    offset: int
    detail: str

    def __str__(self) -> str:
        where = f"record {self.record}, byte {self.offset}: " if self.record >= 0 else ""
        return f"{self.kind}: {self.file}: {where}{self.detail}"


def check_shard(directory: str, manifest: Manifest, shard: Shard) -> Iterator[Fault]:
    """Yields the first fault of each kind in one shard; reads it once, in bounded memory."""
    import google_crc32c

    from pipeline import storage
    from pipeline.data.format import records

    path, size = storage.join(directory, shard.file), manifest.record.bytes
    file_bytes = storage.size(path)
    if file_bytes is None:
        yield Fault("missing", shard.file, -1, 0, "there is no such file")
        return
    if file_bytes != shard.bytes:
        yield Fault("size", shard.file, -1, 0, f"{file_bytes} bytes, but the manifest says {shard.bytes}")
    crc, record, reported = 0, 0, set()
    with storage.open_read(path) as file:
        while data := file.read(CHUNK_RECORDS * size):
            crc = google_crc32c.extend(crc, data)
            whole = len(data) // size
            checked = data[: whole * size]
            for kind, row in records.faults(checked, manifest.record.context, manifest.tokenizer.vocabulary_size):
                if kind not in reported:
                    reported.add(kind)
                    yield Fault(kind, shard.file, record + row, (record + row) * size, DETAILS[kind])
            record += whole
            if whole * size < len(data):
                yield Fault(
                    "cut record", shard.file, record, record * size, f"{len(data) - whole * size} bytes left over"
                )
    if f"{crc:08x}" != shard.crc32c:
        yield Fault("crc32c", shard.file, -1, 0, f"the file's is {crc:08x}, but the manifest says {shard.crc32c}")


DETAILS = {
    "framing": "the length, its checksum or the Example's header is not that of a record",
    "checksum": "the checksum of the record does not fit its bytes",
    "vocabulary": "a token id is not below the vocabulary size",
}


def check_totals(manifest: Manifest) -> Iterator[Fault]:
    """Yields faults if a part's totals contradict each other; loading checks the manifest's consistency."""
    from pipeline.data.sharding.packing import Packing

    packing = Packing(context=manifest.record.context, kind=manifest.record.packing)
    for name, part in manifest.parts.items():
        tokens = part.records * packing.stride + len(part.tail)
        if tokens != part.tokens:
            yield Fault("totals", name, -1, 0, f"records and tail hold {tokens} tokens, but {part.tokens} are stated")
        sizes = [shard.records for shard in part.shards]
        if sizes and max(sizes) - min(sizes) > 1:
            yield Fault("balance", name, -1, 0, f"shards of {min(sizes)} to {max(sizes)} records")
        if any(not 0 <= token < manifest.tokenizer.vocabulary_size for token in part.tail):
            yield Fault("vocabulary", name, -1, 0, "a token id of the tail is not below the vocabulary size")


def main() -> int:
    """Checks all shards in parallel; returns the exit code."""
    cli.required("data", "the directory of a data set, local or gs://")
    if FLAGS.workers < 1:
        raise UserError(f"--workers={FLAGS.workers}: expected 1 or more")

    from pipeline.data.sharding.worker_pool import Pool
    from pipeline.progress import Progress, counted

    manifest = load(FLAGS.data)
    read_tokenizer(FLAGS.data)
    shards = [shard for part in manifest.parts.values() for shard in part.shards]
    faults = list(check_totals(manifest))
    total = sum(shard.bytes for shard in shards)
    progress = Progress(total, work="checking", unit="MB", scale=1e6, done=0)

    def check(shard: Shard) -> list[Fault]:
        return list(check_shard(FLAGS.data, manifest, shard))

    with Pool(check, FLAGS.workers) as pool:
        for shard, shard_faults in pool.run(shards):
            faults += shard_faults
            progress.add(shard.bytes)
    progress.finish()
    first: dict[str, Fault] = {}
    for fault in sorted(faults, key=lambda fault: (fault.file, fault.record)):
        first.setdefault(fault.kind, fault)
    for fault in first.values():
        print(f"fault: {fault}", file=sys.stderr)
    records, within = sum(shard.records for shard in shards), counted(len(shards), "shard")
    if faults:
        print(f"{counted(len(faults), 'fault')} of {counted(len(first), 'kind')} in {within}", file=sys.stderr)
        return 1
    print(f"{FLAGS.data}: {within}, {records:,} records, {total:,} bytes: all as the manifest says")
    return 0


def define_flags() -> None:
    """Defines the flags."""
    cli.define_path("data", None, "The directory of a data set, local or gs://.")
    flags.DEFINE_integer("workers", len(os.sched_getaffinity(0)), "Worker processes at most.")


if __name__ == "__main__":
    cli.run(main, define_flags)
