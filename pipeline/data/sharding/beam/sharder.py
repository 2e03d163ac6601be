"""One data set on Apache Beam: the stages of sharding as a pipeline, with the bytes and manifest of the local engine.

    list ─┬─ units ── reshuffle ── encode ─┬─ gather ── merge                              (units.py)
          └─ corpus ───────────────────────┘             └─ blocks ── reshuffle ── write shards ── gather ── commit

It is one chain without side inputs and tagged outputs, which some runners lack.

Run files are in the journal's folder of a local output, so that either engine resumes the other's unfinished work, or
on gs://, where every machine can reach them. Every step may run twice, or on two machines at once.
"""

import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Sequence

import apache_beam as beam
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import PipelineRunner

from pipeline import storage
from pipeline.data.format.manifest import Manifest
from pipeline.data.format.manifest import load as load_manifest
from pipeline.data.format.settings import ShardConfig
from pipeline.data.sharding.beam import on_dask, options, units
from pipeline.data.sharding.sharder import Sharder
from pipeline.data.sharding.work_folder import Journal
from pipeline.errors import UnavailableError, UserError
from pipeline.progress import duration

SHORT_SECONDS = 30 * 60  # a shorter local run ends before a cluster's start pays off
USER_ERROR = re.compile(r"\b(UserError|UnavailableError): (.+?)(?: \[while running|\n|$)")


class BeamSharder(Sharder):
    """A data set whose units run on Beam. ``build`` makes the pipeline, ``run`` runs it."""

    def __init__(
        self,
        config: ShardConfig,
        source: str | None,
        output: str,
        workers: int,
        work_dir: str | None,
        runner: str,
        given: Sequence[str],
    ):
        """Checks everything and writes nothing.

        ``workers`` counts DirectRunner's processes; other runners have their own options for that, and workers on other
        machines, which must see ``work_dir`` too. Beam's options are ``given`` as NAME=VALUE.

        Raises:
            UserError: as Sharder, or the runner's options are invalid.
        """
        output = _absolute(output)
        if work_dir is None and storage.is_remote(output):
            work_dir = output
        source, work_dir = source and _absolute(source), work_dir and _absolute(work_dir)
        super().__init__(config, source, output, workers, work_dir)
        self._runner = runner
        self.options = options.parse(runner, given, self._workers)
        if storage.is_remote(self._work_dir):  # no journal compares plans there, so each plan has its folder
            self._work_dir += "-" + hashlib.sha256(json.dumps(self._plan).encode()).hexdigest()[:12]
        for flag, path in (("source", source), ("output", self._output), ("work_dir", self._work_dir)):
            if runner == "DataflowRunner" and path and not storage.is_remote(path):
                raise UserError(f"--{flag}={path}: Dataflow's workers cannot see this machine's files; expected gs://…")

    def estimate(self) -> str:
        """Times the first unit here and returns how long the local engine would take for all of them."""
        self.job.tokenizer.warm_up()
        unit = next(iter(self.job.corpus.units()))
        with tempfile.TemporaryFile() as file:
            began = time.perf_counter()
            counts = self.job.encode(unit, file)
            seconds = time.perf_counter() - began
        text = sum(count.utf8_bytes for count in counts.values())
        rate = self._workers * max(text, 1) / seconds
        needed = self.job.corpus.text_bytes / rate
        advice = "; it is the better choice: leave --runner out" if needed < SHORT_SECONDS else ""
        return (
            f"the local engine would tokenize {self.job.corpus.text_bytes / 1e6:,.1f} MB of text here in about "
            f"{duration(needed)} ({self._workers} workers, {rate / 1e6:,.1f} MB/s by the first unit){advice}"
        )

    def build(self, folder: str) -> beam.Pipeline:
        """Returns the pipeline, whose workers find the job in ``folder``, named by its content."""
        job = units.save(self.job, folder, "job")
        pipeline = beam.Pipeline(runner=_runner(self._runner), options=self.options)
        listed = pipeline | "Start" >> beam.Create([None]) | "List units" >> beam.ParDo(units.List(job))
        corpus = listed | "Corpus" >> beam.FlatMap(units.corpus_of)
        spread = listed | "Units" >> beam.FlatMap(units.unit_of) | "Spread units" >> beam.Reshuffle()
        footers = spread | "Encode" >> beam.ParDo(units.Encode(job))
        gathered = (footers, corpus) | "With the corpus" >> beam.Flatten() | "Gather footers" >> units.Gather()
        merged = gathered | "Merge" >> beam.ParDo(units.Merge(job))
        blocks = merged | "Blocks" >> beam.FlatMap(units.blocks) | "Spread blocks" >> beam.Reshuffle()
        shards = blocks | "Write shards" >> beam.ParDo(units.WriteShard(job))
        _ = shards | "Gather shards" >> units.Gather() | "Commit" >> beam.ParDo(units.Commit(job))
        return pipeline

    def run(self) -> Manifest:
        """Prints ``estimate``, then runs the pipeline to its end.

        Raises:
            UserError: see Sharder.run; finished run files are kept for the next try.
        """
        print(self.estimate())
        journal = None
        if storage.is_remote(self._output):
            storage.check_writable(self._output)
        if not storage.is_remote(self._work_dir):
            journal = Journal(self._work_dir, self._plan)
        with options.staged(self._runner, self.options):
            try:
                self._run_pipeline()
            except Exception as error:
                refusal = _refusal(error) or (on_dask.fault(error) if self._runner == "DaskRunner" else None)
                if refusal is None:
                    raise
                if journal and not isinstance(refusal, UnavailableError):
                    journal.remove()  # the same command would fail again: leave nothing half-written
                raise refusal from error
            finally:
                if journal:
                    journal.close()
        manifest = load_manifest(self._output)
        if journal:
            Journal(self._work_dir, self._plan).remove()
        else:
            storage.delete_files(self._work_dir)
        return manifest

    def _run_pipeline(self) -> None:
        try:
            self.build(self._work_dir).run().wait_until_finish()
        finally:
            if self._runner == "DaskRunner":
                on_dask.leave()

    def describe(self, folder: str) -> str:
        """Writes the job graph and what the workers install to ``folder``; starts nothing."""
        with options.staged(self._runner, self.options) as package:
            graph = self.build(folder).to_runner_api()
            storage.publish_bytes(graph.SerializeToString(deterministic=True), storage.join(folder, "job.pb"))
            package_name = options.build_package(package, folder)
        steps = len(graph.components.transforms)
        return f"wrote {folder}: job.pb ({steps} transforms), {package_name}; nothing was started"


def _absolute(path: str) -> str:
    """Returns the absolute path, since workers may run in other folders."""
    return path if storage.is_remote(path) else os.path.abspath(path)


def _runner(name: str) -> PipelineRunner | None:
    """Returns the runner of that name, if Beam would take another."""
    if name == "DaskRunner":
        return on_dask.runner()
    return FnApiRunner() if name == "DirectRunner" else None  # Beam's own DirectRunner downloads a program


def _refusal(error: Exception) -> UserError | None:
    """Recovers our error from Beam's, whose text contains its name and message."""
    match = USER_ERROR.search(f"{type(error).__name__}: {error}")
    if not match:
        return None
    return (UnavailableError if match[1] == "UnavailableError" else UserError)(match[2])
