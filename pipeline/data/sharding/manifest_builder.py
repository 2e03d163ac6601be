"""Builds the manifest of a finished data set, and its summary in a few lines."""

import dataclasses
from collections.abc import Mapping, Sequence

from pipeline.data.format import manifest as manifests
from pipeline.data.format import records
from pipeline.data.format.manifest import Manifest
from pipeline.data.format.settings import ShardConfig
from pipeline.data.format.tokenizer import Tokenizer
from pipeline.data.sharding.packing import Packing
from pipeline.data.sharding.sorted_runs import Counts
from pipeline.progress import counted, duration


def settings(config: ShardConfig, tokenizer: Tokenizer) -> dict[str, object]:
    """Every choice that the bytes depend on; the tokenizer by its fingerprint, wherever its file is."""
    return dataclasses.asdict(config) | {"tokenizer": tokenizer.fingerprint}


def build_manifest(
    config: ShardConfig,
    tokenizer: Tokenizer,
    listing: str,
    notes: tuple[str, ...],
    tails: Mapping[str, Sequence[int]],
    counts: Mapping[str, Counts],
    shards: Mapping[str, Sequence[manifests.Shard]],
) -> Manifest:
    """Returns the manifest of a data set whose shards are committed."""
    packing = Packing(context=config.context, kind=config.packing)
    total = Counts()
    for count in counts.values():
        total.add(count)
    return Manifest(
        corpus=manifests.Corpus(
            name=config.name,
            fingerprint="".join(f"{word:016x}" for word in total.fingerprint),
            listing=listing,
            seed=config.seed,
            order=config.order,
            notes=notes,
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
        parts={name: _part(config, packing, tails[name], counts[name], shards[name]) for name in tails},
    )


def _part(
    config: ShardConfig, packing: Packing, tail: Sequence[int], counts: Counts, shards: Sequence[manifests.Shard]
) -> manifests.Part:
    return manifests.Part(
        documents=counts.documents,
        tokens=counts.tokens,
        records=packing.records(counts.tokens),
        tail=tuple(tail),
        utf8_bytes=counts.utf8_bytes,
        words=counts.words,
        word_rule=config.word_rule,
        dropped=dict(sorted(counts.dropped.items())),
        truncated_tokens=counts.truncated_tokens,
        padding_tokens=counts.padding_tokens,
        shards=tuple(shards),
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
