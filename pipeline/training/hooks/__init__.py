"""What runs after a loop of steps, one hook per module; the session lists the hooks in call order."""

import dataclasses
import time
from typing import Any

import numpy as np

METRICS = ("loss", "grad_norm", "skipped")


@dataclasses.dataclass(frozen=True)
class StepInfo:
    """A finished loop of steps.

    Attributes:
        step: optimizer steps done, including these.
        history: float32 [steps of the loop, columns]: METRICS, each variable's gradient norm, seconds of input wait.
        seconds: of the loop; None for a process's first step, which is mostly compiling.
        ended: Unix time at its end.
    """

    step: int
    history: np.ndarray
    seconds: float | None
    ended: float = dataclasses.field(default_factory=time.time)

    def column(self, name: str) -> np.ndarray:
        """Returns one of METRICS for each step."""
        return self.history[:, METRICS.index(name)]

    @property
    def gradient_norms(self) -> np.ndarray:
        """The gradient norm of each variable, for each step."""
        return self.history[:, len(METRICS) : -1]


class Hook:
    """Does nothing; a hook overrides what it needs."""

    def steps_until_due(self, step: int) -> list[int]:
        """Returns the numbers of steps after ``step`` at which a loop must end."""
        return []

    def after_steps(self, info: StepInfo) -> None:
        """Runs after a loop of steps."""

    def close(self) -> None:
        """Runs after this process's last loop, the last hook first."""

    def summary(self) -> dict[str, Any]:
        """Returns this hook's entries of ``summary.json``, after the last step."""
        return {}


def until_multiple(step: int, every: int) -> list[int]:
    """Returns the number of steps until the next multiple of ``every``; [] if it is 0."""
    return [every - step % every] if every else []
