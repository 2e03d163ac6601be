"""What follows a loop of steps, one idea a module; the session lists the hooks in the order of their calls."""

import dataclasses
import time
from typing import Any

import numpy as np

METRICS = ("loss", "grad_norm", "skipped")


@dataclasses.dataclass(frozen=True)
class StepInfo:
    """A loop of steps that has been made.

    Attributes:
        step: optimizer steps done, these included.
        history: float32 [steps of the loop, columns]: METRICS, each variable's gradient norm, seconds of input wait.
        seconds: of the loop; None for a process's first step, most of which is compiling.
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
    """Does nothing; a hook overrides what concerns it."""

    def steps_until_due(self, step: int) -> list[int]:
        """Returns the numbers of steps after ``step`` at which a loop must end."""
        return []

    def after_steps(self, info: StepInfo) -> None:
        """Follows a loop of steps."""

    def close(self) -> None:
        """Follows the last loop of this process, of the last hook first."""

    def summary(self) -> dict[str, Any]:
        """Returns this hook's entries of ``summary.json``, when the last step is done."""
        return {}


def until_multiple(step: int, every: int) -> list[int]:
    """Returns the number of steps until the next multiple of ``every``; [] if it is 0."""
    return [every - step % every] if every else []
