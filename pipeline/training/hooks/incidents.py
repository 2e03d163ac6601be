"""Skipped updates: each is written, and too many in a row end the run."""

from pipeline.errors import WorkFailedError
from pipeline.runs import incidents
from pipeline.training.hooks import Hook, StepInfo
from pipeline.training.runtime import Run, Runtime, State


class WriteIncidents(Hook):
    """Writes every skipped update of a loop to the run's incidents."""

    def __init__(self, run: Run, state: State, runtime: Runtime, log: incidents.IncidentLog):
        self._run, self._runtime, self._log = run, runtime, log
        self._paths = [variable.path for variable in state.model.trainable_variables]
        self._in_a_row = 0

    def after_steps(self, info: StepInfo) -> None:
        """Raises WorkFailedError after ``train.max_skipped_steps`` skipped updates in a row."""
        for row, skipped in enumerate(info.column("skipped")):
            self._in_a_row = self._in_a_row + 1 if skipped else 0
            if skipped:
                self._write(info, row)

    def _write(self, info: StepInfo, row: int) -> None:
        step, settings = info.step - len(info.history) + row + 1, self._run.settings
        incident = self._log.write(
            step=step,
            global_batch=self._run.plan.global_batch,
            loss=float(info.column("loss")[row]),
            grad_norm=float(info.column("grad_norm")[row]),
            threshold=settings.skip_loss_above,
            gradient_norms=incidents.named_norms(self._paths, info.gradient_norms[row]),
        )
        reason = incident["reason"]
        self._runtime.progress.note(f"step {step:,}: update skipped, {reason}; see {incidents.FILE_NAME}")
        if self._in_a_row >= settings.max_skipped_steps:
            raise WorkFailedError(
                f"{self._in_a_row} updates in a row were skipped, to step {step:,} ({reason}); "
                "they changed no weights. Lower the learning rate or lengthen the warm-up; "
                "python -m tools.replay shows the records"
            )
