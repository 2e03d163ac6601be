"""The steps of a sharding pipeline. Each gives the same result when Beam repeats it, or runs it twice at once.

A unit's result is a file under the unit's name. Attempts differ only in the seconds that they record, so the first
attempt's file is kept, and every later step reads that one.
"""

import functools
import hashlib
import os
import pickle
import tempfile
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam

from pipeline import storage
from pipeline.data.corpora.base import Corpus, Unit
from pipeline.data.format import manifest as manifests
from pipeline.data.sharding import sorted_runs
from pipeline.data.sharding.beam import near
from pipeline.data.sharding.packing import Block
from pipeline.data.sharding.stages import Footer, Job, Merged
from pipeline.errors import UserError

UNITS_PER_ENGINE = 8  # then a new one: its word cache grows with the text that it has seen
_one_at_a_time = threading.Lock()  # the engine and the open run files serve one thread; runners have processes too
_encoded = 0


def save(value: Job | Merged, folder: str, kind: str) -> str:
    """Saves what steps share in ``folder``, named by its content; returns the path."""
    data = pickle.dumps(value)
    path = storage.join(folder, f"{kind}-{hashlib.sha256(data).hexdigest()[:16]}.pickle")
    if storage.size(path) is None:
        storage.publish_bytes(data, path)
    return path


@functools.lru_cache(maxsize=2)
def load(path: str) -> Any:
    """Loads the job or what was merged from ``path``, once per process."""
    return pickle.loads(storage.read_bytes(path))


def unit_of(listed: Unit | Corpus) -> Iterator[Unit]:
    """An element of List, if it is a unit."""
    if isinstance(listed, Unit):
        yield listed


def corpus_of(listed: Unit | Corpus) -> Iterator[Corpus]:
    """An element of List, if it is the corpus."""
    if isinstance(listed, Corpus):
        yield listed


class Gather(beam.PTransform):
    """Many elements → one that holds all of them, in no order."""

    def expand(self, elements: beam.PCollection) -> beam.PCollection:
        """Groups all elements under one key."""
        return elements | beam.WithKeys(0) | beam.GroupByKey() | beam.Values()


class Step(beam.DoFn):
    """A step of the job at a path; its folder holds the run files too."""

    def __init__(self, path: str):
        super().__init__()
        self._path = path
        self._folder = path.rpartition("/")[0]

    @property
    def job(self) -> Job:
        """The job."""
        return load(self._path)


class List(Step):
    """None → the units, then the corpus, as it is once fully listed."""

    def process(self, _: None) -> Iterator[Any]:
        """Yields the units, and the corpus last."""
        corpus = self.job.corpus
        yield from corpus.units()
        yield corpus


class Encode(Step):
    """A unit → (its number, the footer of its run file)."""

    def process(self, unit: Unit) -> Iterator[tuple[int, Footer]]:
        """Encodes a unit, unless its run file exists."""
        path = storage.join(self._folder, f"unit-{unit.index:07d}.run")
        if storage.size(path) is None:
            self._encode(unit, path)
        yield unit.index, sorted_runs.read_footer(path)

    def _encode(self, unit: Unit, path: str) -> None:
        global _encoded
        with _one_at_a_time, _temporary(self._folder) as folder, storage.partial_file(folder) as file:
            self.job.encode(unit, file)
            storage.sync(file)
            _encoded += 1
            if _encoded % UNITS_PER_ENGINE == 0:
                load.cache_clear()
            try:
                storage.publish(file.name, path, storage.file_crc32c(file.name))
            except UserError:
                if storage.size(path) is None:  # otherwise another attempt was first
                    raise


class Merge(Step):
    """All footers and the corpus → the path of the merged index."""

    def process(self, gathered: Iterable[tuple[int, Footer] | Corpus]) -> Iterator[str]:
        """Merges all footers in the source's order."""
        elements = list(gathered)
        (corpus,) = (element for element in elements if not isinstance(element, tuple))
        numbered = sorted((element for element in elements if isinstance(element, tuple)), key=lambda item: item[0])
        job = Job(self.job.config, self.job.tokenizer, corpus, self.job.output)
        with _one_at_a_time, _temporary(self._folder) as folder:
            merged = near.merge(job, [footer for _, footer in numbered], folder)
        yield save(merged, self._folder, "merged")


def blocks(merged: str) -> Iterator[tuple[str, Block]]:
    """The path of the merged index → the work of every shard, with that path."""
    for block in load(merged).blocks:
        yield merged, block


class WriteShard(Step):
    """A block → its committed shard, both with the path of the merged index."""

    def process(self, work: tuple[str, Block]) -> Iterator[tuple[str, manifests.Shard]]:
        """Writes and commits a shard."""
        merged, block = work
        if not storage.is_remote(self.job.output):
            os.makedirs(self.job.output, exist_ok=True)
        with _one_at_a_time, _temporary(self._folder) as folder:
            shard = self.job.write_shard(folder, near.stream_of(self.job, load(merged), block, folder), block)
        yield merged, shard


class Commit(Step):
    """All shards, with the path of the merged index → the committed manifest."""

    def process(self, gathered: Iterable[tuple[str, manifests.Shard]]) -> Iterator[str]:
        """Commits the manifest; yields the corpus's fingerprint."""
        shards = list(gathered)
        merged = load(shards[0][0])
        yield self.job.commit(merged, {shard.file: shard for _, shard in shards}).corpus.fingerprint


class _temporary(tempfile.TemporaryDirectory):  # noqa: N801  (a context manager, used as one)
    """A folder on this machine: next to local run files, so that a commit is a rename; for gs:// on its own disk."""

    def __init__(self, folder: str):
        super().__init__(dir=None if storage.is_remote(folder) else folder, prefix=storage.PARTIAL)

    def __exit__(self, *exception: Any) -> None:
        sorted_runs.close_all()
        super().__exit__(*exception)
