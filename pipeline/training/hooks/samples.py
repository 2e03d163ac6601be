"""A sample of text after each evaluation and at the end, with ``train.sample_prompt``."""

from typing import Any

from pipeline.runs.samples import Samples, SampleWriter
from pipeline.training.hooks import Hook, StepInfo
from pipeline.training.runtime import Run, Runtime, State


class WriteSamples(Hook):
    """Adds samples of the current weights to those of the run."""

    def __init__(self, run: Run, state: State, runtime: Runtime, samples: Samples, writer: SampleWriter):
        self._steps, self._state, self._runtime = run.settings.steps, state, runtime
        self._samples, self._writer = samples, writer

    def after_steps(self, info: StepInfo) -> None:
        """Adds a sample if an evaluation has just been made; the last step's is the summary's."""
        if "validation.nats_per_token" in self._state.record and info.step < self._steps:
            with self._runtime.timed("evaluation", "a sample", compiles=True):
                self._samples.add(info.step, self._writer.write())

    def summary(self) -> dict[str, Any]:
        """Returns the last sample."""
        with self._runtime.timed("evaluation", "the last sample", compiles=True):
            text = self._writer.write()
        self._samples.add(self._steps, text)
        return {"sample": text}
