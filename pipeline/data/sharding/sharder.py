"""Turns a source into a committed data set: every unit at most once, every shard complete, the manifest last.

Workers run stages (a) and (c) of stages.py unit by unit; the journal records which are finished. The shards' bytes are
a function of only corpus, tokenizer and settings.
"""

import dataclasses
import os
import sys
import tempfile
import time

from pipeline import storage
from pipeline.data.corpora import open_corpus
from pipeline.data.corpora.base import Unit
from pipeline.data.format import manifest as manifests
from pipeline.data.format import records
from pipeline.data.format.manifest import Manifest
from pipeline.data.format.settings import ShardConfig
from pipeline.data.format.tokenizer import load as load_tokenizer
from pipeline.data.sharding.packing import Block
from pipeline.data.sharding.stages import Job, Merged
from pipeline.data.sharding.work_folder import Journal, difference
from pipeline.data.sharding.worker_pool import Pool, bounded
from pipeline.errors import UnavailableError, UserError
from pipeline.progress import Progress, counted, duration

WORK_BYTES = 1.0  # of temporary disk per byte of text: two per token and the index, at 2.3 bytes of code per token
UNITS_PER_WORKER = 8  # then a new one: the bulk engine's word cache grows with the text that it has seen


class Sharder:
    """Makes one data set. ``shard`` does everything."""

    def __init__(self, config: ShardConfig, source: str | None, output: str, workers: int, work_dir: str | None = None):
        """Checks everything and writes nothing.

        Raises:
            UserError: the tokenizer, the source or the output is invalid.
        """
        if workers < 1:
            raise UserError(f"--workers={workers}: expected 1 or more")
        self._began = time.monotonic()
        self._config, self._output, self._workers = config, output.rstrip("/") or output, bounded(workers)
        self.job = Job(config, load_tokenizer(config.tokenizer), open_corpus(config, source), self._output)
        self._corpus = self.job.corpus
        self._plan = self.job.settings
        self._plan |= {"listing": self._corpus.listing, "format_version": manifests.FORMAT_VERSION}
        self._work_dir = _work_folder(self._output, work_dir)

    def shard(self) -> Manifest:
        """Makes the data set, or finds it complete, and prints which; UserError as ``finished`` and ``run``."""
        if manifest := self.finished():
            print(f"{self._output} already holds this data set; nothing to do\n{_summary(manifest)}")
        else:
            manifest = self.run()
            print(f"{_summary(manifest, time.monotonic() - self._began)}\nwrote {self._output}")
        for note in manifest.corpus.notes:
            print(f"note: {note}", file=sys.stderr)
        return manifest

    def finished(self) -> Manifest | None:
        """Returns the manifest of a data set that the same command has already completed.

        Raises:
            UserError: the output holds another data set, or files that this pipeline did not write.
        """
        if storage.size(storage.join(self._output, manifests.FILE_NAME)) is None:
            self._check_output_is_ours()
            return None
        manifest = manifests.load(self._output)
        existing = {**manifest.settings, "listing": manifest.corpus.listing, "format_version": manifest.format_version}
        if mismatch := difference(existing, self._plan):
            raise UserError(f"{self._output} already holds a data set of {manifest.corpus.name}, with {mismatch}")
        manifest.check_files(self._output)
        if os.path.isdir(self._work_dir):  # killed after the manifest was committed
            Journal(self._work_dir, self._plan).remove()
        return manifest

    def _check_output_is_ours(self) -> None:
        """Rejects a local output with files that are not unfinished work of this pipeline."""
        if storage.is_remote(self._output) or os.path.isdir(self._work_dir) or not os.path.exists(self._output):
            return
        if not os.path.isdir(self._output):
            raise UserError(f"--output={self._output} is a file, not a directory")
        if names := sorted(os.listdir(self._output)):
            raise UserError(
                f"--output={self._output} holds files, such as {names[0]!r}, but no data set: choose another"
            )

    def run(self) -> Manifest:
        """Does the remaining work and commits the manifest.

        Raises:
            UserError: the source is broken, the disk is full, there is too little text, or the tokenizer loses some.
        """
        self.job.tokenizer.warm_up()
        for directory in (self._output, self._work_dir):
            storage.check_writable(directory)
        each = int(WORK_BYTES * self._corpus.text_bytes)  # the shards are as large as the run files
        storage.check_space({path: each for path in (self._work_dir, self._output) if not storage.is_remote(path)})
        journal = Journal(self._work_dir, self._plan)
        storage.remove_partial(self._output)  # a kill left it
        try:
            self._encode(journal)
            merged = self.job.merge(journal.units())
            manifest = self.job.commit(merged, self._write_shards(journal, merged))
        except BaseException as error:
            if isinstance(error, UserError) and not isinstance(error, UnavailableError):
                journal.remove()  # the same command would fail again: leave nothing half-written
            journal.close()
            storage.remove_partial(self._output)  # from a worker that was stopped because another one failed
            raise
        journal.remove()
        return manifest

    def _encode(self, journal: Journal) -> None:
        """Stage (a): makes the run file of every unit that has none yet."""
        done = sum(extra["size"] for _, _, extra in journal.units())
        progress = Progress(self._corpus.total_bytes, work="tokenizing", unit="MB", scale=1e6, done=done)
        todo = (unit for unit in self._corpus.units() if not os.path.exists(journal.unit_path(unit.index)))

        def encode(unit: Unit) -> None:
            with journal.unit_file(unit.index) as file:
                self.job.encode(unit, file)

        with Pool(encode, self._workers, UNITS_PER_WORKER) as pool:
            for unit, _ in pool.run(todo):
                progress.add(unit.size)
        progress.finish()
        spent = [extra["seconds"] for _, _, extra in journal.units()]
        decompressing = sum(seconds["decompressing"] for seconds in spent)
        if decompressing:
            share = decompressing / sum(seconds["all"] for seconds in spent)
            print(f"decompression took {100 * share:.0f} % of the tokenizing workers' time")

    def _write_shards(self, journal: Journal, merged: Merged) -> dict[str, manifests.Shard]:
        """Stage (c): commits every missing shard; returns all, by file name."""
        if not storage.is_remote(self._output):
            os.makedirs(self._output, exist_ok=True)
        size = records.record_bytes(self._config.context)
        streams = {part: self.job.stream(merged.segments[part]) for part in merged.tails}
        shards: dict[str, manifests.Shard] = {}
        for block in merged.blocks:
            noted = journal.noted(block.file)
            if noted and storage.size(storage.join(self._output, block.file)) == noted["bytes"]:
                shards[block.file] = manifests.Shard(**noted)
        todo = [block for block in merged.blocks if block.file not in shards]
        total = sum(block.count for block in merged.blocks) * size
        done = total - sum(block.count for block in todo) * size
        progress = Progress(total, work="writing", unit="MB", scale=1e6, done=done)

        def write(block: Block) -> manifests.Shard:
            return self.job.write_shard(journal.folder, streams[block.part], block)

        with Pool(write, self._workers) as pool:
            for block, shard in pool.run(todo):
                journal.note(block.file, dataclasses.asdict(shard))
                shards[block.file] = shard
                progress.add(shard.bytes)
        progress.finish()
        return shards


def _work_folder(output: str, work_dir: str | None) -> str:
    """The folder of unfinished work, ours alone: inside a local output, or where the user or the system puts it."""
    if work_dir is None and not storage.is_remote(output):
        return os.path.join(output, ".unfinished")
    name = "unfinished-" + (output if storage.is_remote(output) else os.path.abspath(output)).strip("/")
    return os.path.join(work_dir or tempfile.gettempdir(), name.replace("gs://", "").replace("/", "-"))


def _summary(manifest: Manifest, seconds: float | None = None) -> str:
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
