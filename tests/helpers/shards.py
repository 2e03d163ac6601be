"""Shards of numbers that look distinct, with their manifest, for tests of what reads shards."""

from types import SimpleNamespace

import numpy as np

from pipeline.data.format import records
from pipeline.data.format.manifest import Corpus, Manifest, Part, Record, Shard, Tokenizer

CONTEXT = 16


def write_data(directory, *, shards, count, tail=5, packing="contiguous", end_of_text=0, below=50_000):
    """Writes one stream of distinct-looking tokens as shards; returns directory, manifest, stream and the records."""
    generator = np.random.default_rng(count)
    stream = generator.integers(1, below, count * CONTEXT + tail, dtype=np.uint16)
    rows = np.stack([stream[i * CONTEXT : (i + 1) * CONTEXT + 1] for i in range(count)])
    sizes = [count // shards + (s < count % shards) for s in range(shards)]
    bounds = np.cumsum([0, *sizes])
    described = []
    for s in range(shards):
        data = records.encode(rows[bounds[s] : bounds[s + 1]]).tobytes()
        name = f"train-{s:05d}-of-{shards:05d}.tfrecord"
        (directory / name).write_bytes(data)
        described.append(Shard(file=name, records=sizes[s], bytes=len(data), crc32c=""))
    part = Part(
        documents=1,
        tokens=len(stream),
        records=count,
        tail=tuple(int(t) for t in stream[count * CONTEXT :]),
        utf8_bytes=1,
        words=1,
        word_rule="whitespace",
        shards=tuple(described),
    )
    manifest = Manifest(
        corpus=Corpus(name="c", fingerprint="f", listing="l", seed=0, order="hash"),
        tokenizer=Tokenizer(name="t", fingerprint="f", vocabulary_size=50_000, end_of_text=end_of_text),
        record=Record(context=CONTEXT, bytes=records.record_bytes(CONTEXT), packing=packing),
        parts={"train": part},
    )
    by_shard = [rows[bounds[s] : bounds[s + 1]] for s in range(shards)]
    return SimpleNamespace(path=str(directory), manifest=manifest, stream=stream, shards=by_shard, part=part)
