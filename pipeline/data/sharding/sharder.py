"""From a source to a committed data set: every unit at most once, every shard whole, the manifest last.

Three stages (stages.py): (a) each unit of the source becomes a run file; (b) the run files' tables give every document
its place in the stream; (c) each shard is cut from the stream. Workers do (a) and (c) by units; the journal knows which
are finished. The bytes of the shards are a function of corpus, tokenizer and settings alone.
"""

import dataclasses
import glob
import os
import sys
import tempfile
import time
from collections.abc import Callable

from pipeline import storage
from pipeline.data.corpora import open_corpus
from pipeline.data.corpora.base import Unit
from pipeline.data.format import manifest as manifests
from pipeline.data.format import records
from pipeline.data.format.manifest import Manifest
from pipeline.data.format.settings import ShardConfig
from pipeline.data.format.tokenizer import load as load_tokenizer
from pipeline.data.sharding.manifest_builder import settings, summary
from pipeline.data.sharding.packing import Block
from pipeline.data.sharding.stages import Job, Merged
from pipeline.data.sharding.work_folder import Journal, difference
from pipeline.data.sharding.worker_pool import Pool, bounded
from pipeline.errors import UnavailableError, UserError
from pipeline.progress import Throughput

WORK_BYTES = 1.0  # of temporary disk per byte of text: two per token and the index, at 2.3 bytes of code per token
UNITS_PER_WORKER = 8  # then a new one: the bulk engine's cache of words grows with the text that it has seen


class Sharder:
    """Makes one data set. ``run`` does everything."""

    def __init__(self, config: ShardConfig, source: str | None, output: str, workers: int, work_dir: str | None = None):
        """Checks everything and writes nothing.

        Raises:
            UserError: the tokenizer, the source or the output is not what it should be.
        """
        if workers < 1:
            raise UserError(f"--workers={workers}: expected 1 or more")
        self._config, self._output, self._workers = config, output.rstrip("/") or output, bounded(workers)
        tokenizer = load_tokenizer(config.tokenizer)
        self.job = Job(config, tokenizer, open_corpus(config, source), self._output)
        self._corpus = self.job.corpus
        self._plan = settings(config, tokenizer) | {
            "listing": self._corpus.listing,
            "format_version": manifests.FORMAT_VERSION,
        }
        self._work_dir = _work_folder(self._output, work_dir)

    def finished(self) -> Manifest | None:
        """Returns the manifest of a data set that the same command has finished before.

        Raises:
            UserError: the output holds another data set, or files that this pipeline did not write.
        """
        try:
            manifest = manifests.load(self._output)
        except UserError:
            if storage.size(storage.join(self._output, manifests.FILE_NAME)) is not None:
                raise
            self._check_output_is_ours()
            return None
        existing = {
            **manifest.settings,
            "listing": manifest.corpus.listing,
            "format_version": manifest.format_version,
        }
        if mismatch := difference(existing, self._plan):
            raise UserError(f"{self._output} already holds a data set of {manifest.corpus.name}, with {mismatch}")
        manifest.check_files(self._output)
        if os.path.isdir(self._work_dir):  # killed after the manifest was committed
            Journal(self._work_dir, self._plan).remove()
        return manifest

    def _check_output_is_ours(self) -> None:
        """Refuses a local output with files that are not unfinished work of this pipeline."""
        if storage.is_remote(self._output) or os.path.isdir(self._work_dir) or not os.path.exists(self._output):
            return
        if not os.path.isdir(self._output):
            raise UserError(f"--output={self._output} is a file, not a directory")
        if names := sorted(os.listdir(self._output)):
            raise UserError(
                f"--output={self._output} holds files, such as {names[0]!r}, but no data set: choose another"
            )

    def run(self) -> Manifest:
        """Does what is still to be done and commits the manifest.

        Raises:
            UserError: the source is broken, the disk is full, there is too little text, or the tokenizer loses some.
        """
        self.job.tokenizer.warm_up()
        for directory in (self._output, self._work_dir):
            storage.check_writable(directory)
        each = int(WORK_BYTES * self._corpus.text_bytes)  # the shards are as large as the run files
        storage.check_space({path: each for path in (self._work_dir, self._output) if not storage.is_remote(path)})
        journal = Journal(self._work_dir, self._plan)
        for path in glob.glob(os.path.join(glob.escape(self._output), storage.PARTIAL + "*")):  # a kill left it
            os.unlink(path)
        try:
            self._encode(journal)
            manifest = self._write(journal)
        except UnavailableError:
            journal.close()
            raise
        except UserError:
            journal.remove()  # the same command would fail again: leave nothing half-written
            raise
        except BaseException:
            journal.close()
            raise
        journal.remove()
        return manifest

    def _encode(self, journal: Journal) -> None:
        """Stage (a): makes the run file of every unit that has none yet."""
        done = sum(extra["size"] for _, _, extra in journal.units())
        progress = Throughput("tokenizing", self._corpus.total_bytes, "MB", 1e6, done)
        todo = (unit for unit in self._corpus.units() if not journal.has_unit(unit.index))
        with Pool(self._encode_unit_in(journal), self._workers, UNITS_PER_WORKER) as pool:
            for unit, _ in pool.run(todo):
                progress.add(unit.size)
        progress.finish()
        spent = [extra["seconds"] for _, _, extra in journal.units()]
        decompressing = sum(seconds["decompressing"] for seconds in spent)
        if decompressing:
            share = decompressing / sum(seconds["all"] for seconds in spent)
            print(f"decompression took {100 * share:.0f} % of the tokenizing workers' time")

    def _encode_unit_in(self, journal: Journal) -> Callable[[], Callable[[Unit], None]]:
        def make() -> Callable[[Unit], None]:

            def encode(unit: Unit) -> None:
                with journal.unit_file(unit.index) as file:
                    self.job.encode(unit, file)

            return encode

        return make

    def _write(self, journal: Journal) -> Manifest:
        """Stages (b) and (c), then the tokenizer and the manifest."""
        merged = self.job.merge(journal.units())
        return self.job.commit(merged, self._write_shards(journal, merged))

    def _write_shards(self, journal: Journal, merged: Merged) -> dict[str, manifests.Shard]:
        """Stage (c): commits every shard that is not there yet; returns all, by the name of the file."""
        if not storage.is_remote(self._output):
            os.makedirs(self._output, exist_ok=True)
        size = records.record_bytes(self._config.context)
        streams = {part: self.job.stream(merged.segments[part]) for part in merged.tails}
        shards = {block.file: self._committed(journal, block) for block in merged.blocks}
        todo = [block for block in merged.blocks if shards[block.file] is None]
        total = sum(block.count for block in merged.blocks) * size
        progress = Throughput("writing", total, "MB", 1e6, total - sum(block.count for block in todo) * size)

        def make() -> Callable[[Block], manifests.Shard]:
            return lambda block: self.job.write_shard(journal.folder, streams[block.part], block)

        with Pool(make, self._workers) as pool:
            for block, shard in pool.run(todo):
                journal.note(block.file, dataclasses.asdict(shard))
                shards[block.file] = shard
                progress.add(shard.bytes)
        progress.finish()
        return {file: shard for file, shard in shards.items() if shard is not None}

    def _committed(self, journal: Journal, block: Block) -> manifests.Shard | None:
        """Returns a shard that an earlier run has committed."""
        noted = journal.noted(block.file)
        if noted and storage.size(storage.join(self._output, block.file)) == noted["bytes"]:
            return manifests.Shard(**noted)
        return None


def _work_folder(output: str, work_dir: str | None) -> str:
    """The folder of unfinished work, ours alone: inside a local output, or where the user or the system wants it."""
    if work_dir is None and not storage.is_remote(output):
        return os.path.join(output, ".unfinished")
    name = "unfinished-" + (output if storage.is_remote(output) else os.path.abspath(output)).strip("/")
    return os.path.join(work_dir or tempfile.gettempdir(), name.replace("gs://", "").replace("/", "-"))


def shard(config: ShardConfig, source: str | None, output: str, workers: int, work_dir: str | None = None) -> Manifest:
    """Makes a data set, or finds it finished, and prints which.

    Raises:
        UserError: see Sharder.
    """
    began = time.monotonic()
    sharder = Sharder(config, source, output, workers, work_dir)
    manifest = sharder.finished()
    if manifest:
        print(f"{output} already holds this data set; nothing to do\n{summary(manifest)}")
    else:
        manifest = sharder.run()
        print(f"{summary(manifest, time.monotonic() - began)}\nwrote {output}")
    for note in manifest.corpus.notes:
        print(f"note: {note}", file=sys.stderr)
    return manifest
