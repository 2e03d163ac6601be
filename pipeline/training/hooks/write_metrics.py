"""The record of a loop, written to the run's sinks with the seconds so far."""

from pipeline.runs.metrics_writer import MetricsWriter
from pipeline.training.hooks import Hook, StepInfo
from pipeline.training.runtime import Runtime, State


class WriteMetrics(Hook):
    """Writes what the hooks before it have put into the record."""

    def __init__(self, state: State, runtime: Runtime, metrics: MetricsWriter):
        self._state, self._runtime, self._metrics = state, runtime, metrics

    def after_steps(self, info: StepInfo) -> None:
        """Writes the record; without the speed of a loop before."""
        self._state.record |= {f"seconds.{part}": spent for part, spent in self._runtime.clock.rounded().items()}
        of_others = dict.fromkeys(("tokens_per_second", "mfu")) if info.seconds is None else {}
        self._metrics.write(self._state.record | of_others)
