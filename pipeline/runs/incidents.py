"""The flight recorder: records, losses and gradient norms of skipped updates.

``incidents.jsonl`` has one JSON line per incident; ``python -m tools.replay`` reads exactly those records again.
"""

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.runs.run_directory import RunDirectory

FILE_NAME = "incidents.jsonl"


class IncidentLog:
    """Appends to a run's ``incidents.jsonl``.

    Args:
        directory: the run's.
        resume_step: incidents after it are dropped: their steps run again.
    """

    def __init__(self, directory: RunDirectory, resume_step: int = 0):
        self._directory = directory
        incidents = read(directory)
        self._lines = [json.dumps(incident) for incident in incidents if incident["step"] <= resume_step]
        if len(self._lines) < len(incidents):
            self._write()

    def write(
        self,
        *,
        step: int,
        global_batch: int,
        loss: float,
        grad_norm: float,
        threshold: float | None,
        gradient_norms: Mapping[str, float],
    ) -> dict[str, Any]:
        """Writes one skipped update and returns it.

        Args:
            step: optimizer steps done, this one included; its batch is number ``step - 1``.
            global_batch: records per batch.
            loss: nats per token; nan and infinities are written as strings, since JSON has no such numbers.
            grad_norm: of the mean gradient over all variables, before clipping.
            threshold: the loss above which updates are skipped, if there is one.
            gradient_norms: the same for each variable.
        """
        finite = math.isfinite(loss) and math.isfinite(grad_norm)
        incident = {
            "step": step,
            "reason": f"loss above {threshold}" if finite else "loss or gradient not finite",
            "loss": _number(loss),
            "grad_norm": _number(grad_norm),
            "records": list(range((step - 1) * global_batch, step * global_batch)),
            "gradient_norms": {path: _number(norm) for path, norm in gradient_norms.items()},
        }
        self._lines.append(json.dumps(incident))
        self._write()
        return incident

    def _write(self) -> None:
        self._directory.write(FILE_NAME, "".join(line + "\n" for line in self._lines))


def read(directory: RunDirectory) -> list[dict[str, Any]]:
    """Returns a run's incidents in the order of their steps; an empty list if there are none."""
    if not directory.exists(FILE_NAME):
        return []
    incidents: list[dict[str, Any]] = []
    for line in directory.read_text(FILE_NAME).splitlines():
        with contextlib.suppress(ValueError):
            incidents.append(json.loads(line))
    return incidents


def named_norms(paths: Sequence[str], norms: Sequence[float]) -> dict[str, float]:
    """Returns gradient norms by variable, the not finite ones first and then the largest."""
    pairs = zip(paths, (float(norm) for norm in norms), strict=True)
    return dict(sorted(pairs, key=lambda pair: (math.isfinite(pair[1]), -pair[1] if math.isfinite(pair[1]) else 0)))


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
