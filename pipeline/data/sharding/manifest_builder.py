"""Builds the manifest of a finished data set, and its summary in a few lines."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pipeline.data.format import manifest as manifests
from pipeline.data.format import records
from pipeline.data.format.manifest import Manifest
from pipeline.data.format.settings import ShardConfig
from pipeline.data.format.tokenizer import Tokenizer
from pipeline.data.sharding.sorted_runs import Counts
from pipeline.progress import counted, duration

if TYPE_CHECKING:
    from pipeline.data.sharding.stages import Job, Merged


def settings(config: ShardConfig, tokenizer: Tokenizer) -> dict[str, object]:
    """Every choice that the bytes depend on; the tokenizer by its fingerprint, wherever its file is."""
    return dataclasses.asdict(config) | {"tokenizer": tokenizer.fingerprint}


def build_manifest(job: "Job", merged: "Merged", shards: Mapping[str, manifests.Shard]) -> Manifest:
    """Returns the manifest of a data set whose shards, by the names of their files, are committed."""
    config, tokenizer, total = job.config, job.tokenizer, sum(merged.counts.values(), Counts())
    return Manifest(
        corpus=manifests.Corpus(
            name=config.name,
            fingerprint="".join(f"{word:016x}" for word in total.fingerprint),
            listing=job.corpus.listing,
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
        settings=settings(config, tokenizer),
        parts={part: _part(job, merged, part, shards) for part in merged.tails},
    )


def _part(job: "Job", merged: "Merged", part: str, shards: Mapping[str, manifests.Shard]) -> manifests.Part:
    counts = merged.counts[part]
    numbers = dataclasses.asdict(counts) | {"dropped": dict(sorted(counts.dropped.items()))}
    del numbers["fingerprint"]
    return manifests.Part(
        **numbers,
        records=job.packing.records(counts.tokens),
        tail=tuple(merged.tails[part]),
        word_rule=job.config.word_rule,
        shards=tuple(shards[block.file] for block in merged.blocks if block.part == part),
    )


def summary(manifest: Manifest, seconds: float | None = None) -> str:
    """Returns the totals, one line per part, as the command line prints them."""
    text = []
    for name, part in manifest.parts.items():
        dropped = "".join(f", {count:,} dropped ({reason})" for reason, count in part.dropped.items())
        text.append(
            f"{name}: {part.documents:,} documents{dropped}, {part.utf8_bytes:,} bytes, {part.tokens:,} tokens in "
            f"{part.records:,} records and a tail of {len(part.tail):,}, {counted(len(part.shards), 'shard')}"
        )
    if seconds is not None:
        total = sum(part.utf8_bytes for part in manifest.parts.values())
        text.append(f"{total / 1e6:,.1f} MB of text in {duration(seconds)}: {total / 1e6 / seconds:,.1f} MB/s")
    return "\n".join(text)
