"""Writes the records of a loop's steps to the run's sinks, the last with the speed and the seconds so far."""

from pipeline.runs.metrics_writer import MetricsWriter
from pipeline.training.hooks import Hook, StepInfo
from pipeline.training.runtime import Runtime, State


class WriteMetrics(Hook):
    """Writes each step, and with the last one what earlier hooks put into the loop's record."""

    def __init__(self, state: State, runtime: Runtime, metrics: MetricsWriter):
        self._state, self._runtime, self._metrics = state, runtime, metrics

    def after_steps(self, info: StepInfo) -> None:
        """Writes the records; the last without the speed of a loop before."""
        self._state.record |= {f"seconds.{part}": spent for part, spent in self._runtime.clock.rounded().items()}
        of_others = dict.fromkeys(("tokens_per_second", "mfu")) if info.seconds is None else {}
        *earlier, last = self._state.records
        self._metrics.write(*earlier, self._state.record | of_others | last)
