"""Shards in another process, under limits that a few kilobytes of text cross."""

import importlib

REAL_LIMITS: dict[str, int] = {}
SMALL_LIMITS = {
    "pipeline.data.corpora.base.UNIT_BYTES": 6_000,
    "pipeline.data.corpora.text.UNIT_BYTES": 6_000,
    "pipeline.data.corpora.base.PIECE_BYTES": 3_000,
    "pipeline.data.corpora.text.PIECE_BYTES": 3_000,
    "pipeline.data.sharding.encode_unit.PIECE_BYTES": 3_000,
    "pipeline.data.sharding.encode_unit.BATCH_CHARACTERS": 2_000,
    "pipeline.data.sharding.encode_unit.SEGMENT_TOKENS": 900,
    "pipeline.data.sharding.token_stream.CHUNK_TOKENS": 500,
}


def run_sharder(limits, config, *arguments):
    """Sets module constants and shards; runs in another process."""
    from pipeline.data.format.settings import ShardConfig
    from pipeline.data.sharding.sharder import Sharder

    originals = {}
    for path, value in limits.items():
        module, name = path.rsplit(".", 1)
        originals[path] = getattr(importlib.import_module(module), name)
        setattr(importlib.import_module(module), name, value)
    try:
        return Sharder(ShardConfig(**config), *arguments).shard()
    finally:
        for path, value in originals.items():
            module, name = path.rsplit(".", 1)
            setattr(importlib.import_module(module), name, value)
