"""Text samples in ``samples.txt``, after each evaluation and at the end, with ``train.sample_prompt``."""

import re
from typing import Any

from pipeline.runs.metrics_writer import MetricsWriter
from pipeline.runs.run_directory import RunDirectory
from pipeline.runs.samples import SampleWriter
from pipeline.training.hooks import Hook, StepInfo
from pipeline.training.runtime import Run, Runtime, State

FILE = "samples.txt"
HEAD = re.compile(r"^=== step ([\d,]+) ===\n", re.MULTILINE)


class WriteSamples(Hook):
    """Appends to ``samples.txt``, TensorBoard and Weights & Biases; samples of steps that run again are dropped."""

    def __init__(
        self,
        run: Run,
        state: State,
        runtime: Runtime,
        directory: RunDirectory,
        metrics: MetricsWriter,
        writer: SampleWriter,
    ):
        self._steps, self._state, self._runtime = run.settings.steps, state, runtime
        self._directory, self._metrics, self._writer, self._text = directory, metrics, writer, ""
        if directory.exists(FILE):
            text = directory.read_text(FILE)
            later = (head for head in HEAD.finditer(text) if int(head[1].replace(",", "")) > state.step)
            self._text = text[: next((head.start() for head in later), len(text))]

    def after_steps(self, info: StepInfo) -> None:
        """Adds a sample if an evaluation has just been made; the last step's is the summary's."""
        if "validation.nats_per_token" in self._state.record and info.step < self._steps:
            self._add(info.step, "a sample")

    def summary(self) -> dict[str, Any]:
        """Returns the last sample."""
        return {"sample": self._add(self._steps, "the last sample")}

    def _add(self, step: int, kind: str) -> str:
        with self._runtime.timed("evaluation", kind, compiles=True):
            sample = self._writer.write()
        self._text += f"=== step {step:,} ===\n{sample}\n\n"
        self._directory.write(FILE, self._text)
        self._metrics.text("sample", sample, step)
        return sample
