"""Runs the sharder in a process of its own: it forks workers, which a process with TensorFlow's threads should not."""

import concurrent.futures
import hashlib
import importlib
import multiprocessing
import pathlib

import pytest

# Limits small enough that a few kilobytes of text cross all of them.
SMALL = {
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
    from pipeline.data.sharding.sharder import shard

    originals = {}
    for path, value in limits.items():
        module, name = path.rsplit(".", 1)
        originals[path] = getattr(importlib.import_module(module), name)
        setattr(importlib.import_module(module), name, value)
    try:
        return shard(ShardConfig(**config), *arguments)
    finally:
        for path, value in originals.items():
            module, name = path.rsplit(".", 1)
            setattr(importlib.import_module(module), name, value)


@pytest.fixture(scope="session")
def sharding_process():
    """One fresh process that shards, again and again."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
        yield executor


@pytest.fixture(scope="session")
def small_tokenizer(tmp_path_factory):
    """The path of a byte-level BPE of 300 entries, which loads at once; its end of text is 0."""
    from pipeline.data.format import tokenizer

    texts = [f"the cat and the {i} dogs don't like cafés, do they? text{i}\n" for i in range(300)]
    path = tmp_path_factory.mktemp("tokenizer") / "small.json"
    path.write_bytes(tokenizer.train(texts, 300, "small").data)
    return str(path)


@pytest.fixture
def shard(sharding_process, small_tokenizer):
    """Shards by ``shard(source, output, workers=2, limits=SMALL, **settings)`` and returns the manifest."""

    def run(source, output, workers=2, limits=None, work_dir=None, **settings):
        config = {"corpus": "text", "name": "test", "shards": 3, "context": 16, "validation_fraction": 0.0}
        config = config | {"tokenizer": small_tokenizer} | settings
        source = None if source is None else str(source)
        task = (run_sharder, SMALL if limits is None else limits, config, source, str(output), workers, work_dir)
        return sharding_process.submit(*task).result(timeout=300)

    return run


@pytest.fixture
def digests():
    """Returns {file name: sha256} of a directory."""

    def of(directory):
        return {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(pathlib.Path(directory).iterdir())
        }

    return of
