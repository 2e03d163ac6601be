"""The steps of a sharding pipeline. Each gives the same when Beam runs it again, or twice at once.

A unit's result is a file under the unit's name. Attempts differ only in the seconds that they note down, so the
file of the first attempt is kept, and every later step reads that one.
"""

import functools
import os
import pickle
import tempfile
import threading
from collections.abc import Iterator, Sequence
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

CORPUS = "corpus"  # the output of List that is the corpus, as it is when all of it has been listed
UNITS_PER_ENGINE = 8  # then a new one: its cache of words grows with the text that it has seen
_one_at_a_time = threading.Lock()  # the engine and the open run files serve one thread; runners have processes too
_encoded = 0


@functools.lru_cache(maxsize=1)
def load(path: str) -> Job:
    """Loads the job at ``path``, once per process."""
    return pickle.loads(storage.read_bytes(path))


class Step(beam.DoFn):
    """A step of the job at a path, whose folder is that of the run files too."""

    def __init__(self, path: str):
        super().__init__()
        self._path = path
        self._folder = path.rpartition("/")[0]

    @property
    def job(self) -> Job:
        """The job."""
        return load(self._path)


class List(Step):
    """None → the units, and the corpus."""

    def process(self, _: None) -> Iterator[Any]:
        """Yields the units, and the corpus under its own tag."""
        corpus = self.job.corpus
        yield from corpus.units()
        yield beam.pvalue.TaggedOutput(CORPUS, corpus)


class Encode(Step):
    """A unit → (its number, the footer of its run file)."""

    def process(self, unit: Unit) -> Iterator[tuple[int, Footer]]:
        """Encodes a unit, unless its run file is there."""
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
                if storage.size(path) is None:  # or another attempt was first
                    raise


class Merge(Step):
    """None, with all footers and the corpus → where everything is."""

    def process(self, _: None, footers: Sequence[tuple[int, Footer]], corpus: Corpus) -> Iterator[Merged]:
        """Merges all footers in the source's order."""
        job = Job(self.job.config, self.job.tokenizer, corpus, self.job.output)
        in_order = [footer for _, footer in sorted(footers, key=lambda item: item[0])]
        with _one_at_a_time, _temporary(self._folder) as folder:
            merged = near.merge(job, in_order, folder)
        yield merged


def blocks(merged: Merged) -> Sequence[Block]:
    """The work of every shard."""
    return merged.blocks


class WriteShard(Step):
    """A block → its committed shard."""

    def process(self, block: Block, merged: Merged) -> Iterator[manifests.Shard]:
        """Writes and commits a shard."""
        if not storage.is_remote(self.job.output):
            os.makedirs(self.job.output, exist_ok=True)
        with _one_at_a_time, _temporary(self._folder) as folder:
            shard = self.job.write_shard(folder, near.stream_of(self.job, merged, block, folder), block)
        yield shard


class Commit(Step):
    """None, with everything → the manifest, committed."""

    def process(self, _: None, merged: Merged, shards: Sequence[manifests.Shard]) -> Iterator[str]:
        """Commits the manifest; yields the corpus's fingerprint."""
        yield self.job.commit(merged, {shard.file: shard for shard in shards}).corpus.fingerprint


class _temporary(tempfile.TemporaryDirectory):  # noqa: N801  (a context manager, used as one)
    """A folder of this machine: beside local run files, so that a commit is a rename; for gs:// on its own disk."""

    def __init__(self, folder: str):
        super().__init__(dir=None if storage.is_remote(folder) else folder, prefix=storage.PARTIAL)

    def __exit__(self, *exception: Any) -> None:
        sorted_runs.close_all()
        super().__exit__(*exception)
