"""The stages of sharding as pure functions of their inputs, for either engine: our workers, or Beam's.

(a) ``encode`` turns a unit of the source into a run file; (b) ``merge`` gives every document of all run files its
place, and every shard its block; (c) ``write_shard`` commits a shard; ``commit`` comes last. Each may run twice, or on
two machines at once, with the same result.
"""

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, BinaryIO

from pipeline import storage
from pipeline.data.corpora.base import PARTS, Corpus, Unit
from pipeline.data.format import manifest as manifests
from pipeline.data.format import records
from pipeline.data.format.manifest import Manifest
from pipeline.data.format.settings import ShardConfig
from pipeline.data.format.tokenizer import Tokenizer
from pipeline.data.format.tokenizer_file import notes as tokenizer_notes
from pipeline.data.sharding.encode_unit import UnitEncoder
from pipeline.data.sharding.packing import Block, Packing, plan_blocks, write_shard
from pipeline.data.sharding.sorted_runs import Counts, Segment
from pipeline.data.sharding.token_stream import Stream, shared_texts
from pipeline.errors import UserError
from pipeline.texts import printable

Footer = tuple[Sequence[Segment], Mapping[str, Counts], Mapping[str, Any]]  # what sorted_runs.read_footer returns


@dataclasses.dataclass(frozen=True)
class Merged:
    """The run files of a whole source, in order.

    Attributes:
        segments: of each part, in the source's order; picklable, unlike streams with many open files.
        counts: of each part.
        tails: the tokens of each part that fill no record.
        notes: what a user of the data set must know.
        blocks: the work of every shard.
    """

    segments: Mapping[str, Sequence[Segment]]
    counts: Mapping[str, Counts]
    tails: Mapping[str, Sequence[int]]
    notes: tuple[str, ...]
    blocks: Sequence[Block]


@dataclasses.dataclass(frozen=True)
class Job:
    """One data set: what is read, how, and where the shards go."""

    config: ShardConfig
    tokenizer: Tokenizer
    corpus: Corpus
    output: str

    @property
    def packing(self) -> Packing:
        """How the stream is cut into records."""
        return Packing(context=self.config.context, kind=self.config.packing)

    @property
    def settings(self) -> dict[str, object]:
        """All choices that determine the bytes; the tokenizer by its fingerprint, wherever its file is."""
        return dataclasses.asdict(self.config) | {"tokenizer": self.tokenizer.fingerprint}

    def encode(self, unit: Unit, file: BinaryIO) -> dict[str, Counts]:
        """Stage (a): writes the unit's run file; returns its counts by part."""
        return UnitEncoder(self.config, self.tokenizer, file).run(self.corpus, unit)

    def stream(self, segments: Sequence[Segment]) -> Stream:
        """The token stream of a part, read from its run files."""
        return Stream(segments, self.config.order)

    def merge(self, footers: Iterable[Footer]) -> Merged:
        """Stage (b): merges the footers of all run files, given in the source's order.

        Raises:
            UserError: there are no documents, most are faulty, there is too little text, or it differs from the
                published corpus.
        """
        counts: dict[str, Counts] = {}
        segments: dict[str, list[Segment]] = {}
        faults: dict[str, str] = {}
        for unit_segments, unit_counts, extra in footers:
            for segment in unit_segments:
                segments.setdefault(segment.part, []).append(segment)
            for part, count in unit_counts.items():
                counts[part] = counts.get(part, Counts()) + count
            for reason, fault in extra.get("faults", {}).items():
                faults.setdefault(reason, printable(fault))
        self._check(counts, faults)
        streams = {part: self.stream(segments[part]) for part in PARTS if part in segments}
        for part, stream in streams.items():
            if counts[part].tokens != stream.tokens:
                raise RuntimeError(f"{part}: {counts[part].tokens} tokens read, but {stream.tokens} in the stream")
        notes = self.corpus.notes + tokenizer_notes(self.tokenizer.name, self.tokenizer.settings)
        notes += tuple(f"the first that was dropped ({reason}): {fault}" for reason, fault in faults.items())
        notes += shared_texts(streams)
        blocks = plan_blocks(self.config, self.packing, {part: stream.tokens for part, stream in streams.items()})
        tails = {part: tuple(self.packing.tail(stream)) for part, stream in streams.items()}
        return Merged(segments, counts, tails, notes, blocks)

    def _check(self, counts: Mapping[str, Counts], faults: Mapping[str, str]) -> None:
        total = sum(counts.values(), Counts())
        dropped = sum(total.dropped.values())
        reasons = ", ".join(f"{reason}: {count}" for reason, count in total.dropped.items())
        first = "".join(f"; {fault}" for fault in [*faults.values()][:1])
        if not total.documents:
            raise UserError(
                f"the source holds no document: {dropped} were dropped ({reasons or 'there are none'}){first}"
            )
        if sum(total.dropped[reason] for reason in faults) > total.documents:
            raise UserError(
                f"most of the source cannot be read: of {total.documents + dropped} documents {dropped} were dropped "
                f"({reasons}){first}"
            )
        self.corpus.check_totals(total.documents + dropped)

    def write_shard(self, folder: str, stream: Stream, block: Block) -> manifests.Shard:
        """Stage (c): cuts a shard into a temporary file in ``folder``, checks it and commits it to the output."""
        with storage.partial_file(folder) as file:
            crc = write_shard(file, stream, self.packing, block.first, block.count)
            storage.sync(file)
            size = os.path.getsize(file.name)
            if size != block.count * records.record_bytes(self.config.context) or storage.file_crc32c(file.name) != crc:
                raise OSError(f"{file.name} does not hold what was written to it: is the disk sound?")
            storage.publish(file.name, storage.join(self.output, block.file), crc)
        return manifests.Shard(file=block.file, records=block.count, bytes=size, crc32c=f"{crc:08x}")

    def commit(self, merged: Merged, shards: Mapping[str, manifests.Shard]) -> Manifest:
        """Writes the tokenizer, and the manifest last. ``shards``: every block's, by the name of its file."""
        manifest = self._manifest(merged, shards)
        storage.publish_bytes(self.tokenizer.data, storage.join(self.output, manifests.TOKENIZER_FILE))
        storage.publish_bytes(manifest.dumps().encode(), storage.join(self.output, manifests.FILE_NAME))
        return manifest

    def _manifest(self, merged: Merged, shards: Mapping[str, manifests.Shard]) -> Manifest:
        config, tokenizer, total = self.config, self.tokenizer, sum(merged.counts.values(), Counts())
        return Manifest(
            corpus=manifests.Corpus(
                name=config.name,
                fingerprint="".join(f"{word:016x}" for word in total.fingerprint),
                listing=self.corpus.listing,
                seed=config.seed,
                order=config.order,
                notes=merged.notes,
            ),
            tokenizer=manifests.Tokenizer(
                name=tokenizer.name,
                fingerprint=tokenizer.fingerprint,
                vocabulary_size=tokenizer.vocabulary_size,
                end_of_text=tokenizer.end_of_text,
            ),
            record=manifests.Record(
                context=config.context, bytes=records.record_bytes(config.context), packing=config.packing
            ),
            settings=self.settings,
            parts={part: self._part(merged, part, shards) for part in merged.tails},
        )

    def _part(self, merged: Merged, part: str, shards: Mapping[str, manifests.Shard]) -> manifests.Part:
        counts = merged.counts[part]
        numbers = dataclasses.asdict(counts) | {"dropped": dict(sorted(counts.dropped.items()))}
        del numbers["fingerprint"]
        return manifests.Part(
            **numbers,
            records=self.packing.records(counts.tokens),
            tail=tuple(merged.tails[part]),
            word_rule=self.config.word_rule,
            shards=tuple(shards[block.file] for block in merged.blocks if block.part == part),
        )
