"""The run's whole state, every ``train.checkpoint_every`` steps and when a process ends."""

from pipeline.runs.checkpoints import Checkpoints
from pipeline.runs.metrics_writer import MetricsWriter
from pipeline.training.hooks import Hook, StepInfo, until_multiple
from pipeline.training.runtime import Run, Runtime, State


class SaveCheckpoints(Hook):
    """Saves the variables, the record and the clock."""

    def __init__(self, run: Run, state: State, runtime: Runtime, checkpoints: Checkpoints, metrics: MetricsWriter):
        self._settings, self._state, self._runtime = run.settings, state, runtime
        self._checkpoints, self._metrics = checkpoints, metrics

    def steps_until_due(self, step: int) -> list[int]:
        """Ends a loop where a checkpoint is due."""
        return until_multiple(step, self._settings.checkpoint_every)

    def after_steps(self, info: StepInfo) -> None:
        """Saves if a checkpoint is due; ``close`` saves the last step."""
        if info.step % self._settings.checkpoint_every == 0 and info.step < self._settings.steps:
            self._save()

    def close(self) -> None:
        """Saves, and waits until the checkpoint is committed."""
        self._save()
        with self._runtime.timed("checkpoint", "writing the last checkpoint"):
            self._checkpoints.wait()

    def _save(self) -> None:
        self._metrics.flush()  # a run that resumes from this checkpoint writes what comes after it
        with self._runtime.timed("checkpoint", "a checkpoint"):
            metadata = {"record": self._state.record, "seconds": self._runtime.clock.seconds()}
            self._checkpoints.save(self._state.step, metadata)
