"""Runs the sharder in a process of its own: it forks workers, which a process with TensorFlow's threads should not."""

import concurrent.futures
import hashlib
import multiprocessing
import pathlib

import pytest

from tests.helpers.sharding import SMALL_LIMITS, run_sharder


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
    """Shards by ``shard(source, output, workers=2, limits=SMALL_LIMITS, **settings)`` and returns the manifest."""

    def run(source, output, workers=2, limits=None, work_dir=None, **settings):
        config = {"corpus": "text", "name": "test", "shards": 3, "context": 16, "validation_fraction": 0.0}
        config = config | {"tokenizer": small_tokenizer} | settings
        source = None if source is None else str(source)
        task = (run_sharder, SMALL_LIMITS if limits is None else limits, config, source, str(output), workers, work_dir)
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
