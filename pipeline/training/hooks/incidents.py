"""Skipped updates: each is written to ``incidents.jsonl``, and too many in a row end the run."""

import json
import math
from collections.abc import Sequence

from pipeline.errors import WorkFailedError
from pipeline.runs import incidents
from pipeline.runs.run_directory import RunDirectory
from pipeline.training.hooks import Hook, StepInfo
from pipeline.training.runtime import Run, Runtime, State


class WriteIncidents(Hook):
    """Appends an incident for every skipped update; incidents of steps that run again are dropped."""

    def __init__(self, run: Run, state: State, runtime: Runtime, directory: RunDirectory):
        self._run, self._runtime, self._directory = run, runtime, directory
        self._paths = [variable.path for variable in state.model.trainable_variables]
        self._in_a_row = 0
        earlier = incidents.read(directory)
        self._incidents = [incident for incident in earlier if incident["step"] <= state.step]
        if len(self._incidents) < len(earlier):
            self._write()

    def after_steps(self, info: StepInfo) -> None:
        """Raises WorkFailedError after ``train.max_skipped_steps`` skipped updates in a row."""
        for row, skipped in enumerate(info.column("skipped")):
            self._in_a_row = self._in_a_row + 1 if skipped else 0
            if skipped:
                self._add(info, row)

    def _add(self, info: StepInfo, row: int) -> None:
        step, batch, settings = info.step - len(info.history) + row + 1, self._run.plan.global_batch, self._run.settings
        loss, norm = float(info.column("loss")[row]), float(info.column("grad_norm")[row])
        finite = math.isfinite(loss) and math.isfinite(norm)
        reason = f"loss above {settings.skip_loss_above}" if finite else "loss or gradient not finite"
        incident = {
            "step": step,
            "reason": reason,
            "loss": _number(loss),
            "grad_norm": _number(norm),
            "records": list(range((step - 1) * batch, step * batch)),
            "gradient_norms": named_norms(self._paths, info.gradient_norms[row]),
        }
        self._incidents.append(incident)
        self._write()
        self._runtime.progress.note(f"step {step:,}: update skipped, {reason}; see {incidents.FILE_NAME}")
        if self._in_a_row >= settings.max_skipped_steps:
            raise WorkFailedError(
                f"{self._in_a_row} updates in a row were skipped, to step {step:,} ({reason}); "
                "they changed no weights. Lower the learning rate or lengthen the warm-up; "
                "python -m tools.replay shows the records"
            )

    def _write(self) -> None:
        lines = "".join(json.dumps(incident) + "\n" for incident in self._incidents)
        self._directory.write(incidents.FILE_NAME, lines)


def named_norms(paths: Sequence[str], norms: Sequence[float]) -> dict[str, float | str]:
    """Returns gradient norms by variable: first those that are not finite, then the largest."""
    pairs = zip(paths, map(float, norms), strict=True)
    order = sorted(pairs, key=lambda pair: (math.isfinite(pair[1]), -pair[1] if math.isfinite(pair[1]) else 0))
    return {path: _number(norm) for path, norm in order}


def _number(value: float) -> float | str:
    """Returns nan and infinities as text, since JSON has no such numbers."""
    return value if math.isfinite(value) else str(value)
