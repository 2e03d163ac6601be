"""Learning-rate schedules: linear warm-up, then linear decay, cosine, constant or inverse square root.

Imports neither TensorFlow nor Keras. One formula serves Python numbers (the dry run, the log) and tensors (the update
inside the compiled step), depending on the ``xp`` module.
"""

import math
import types
from dataclasses import dataclass
from typing import Any

from pipeline.errors import UserError, nearest

KINDS = ("linear", "cosine", "constant", "inverse_sqrt")


# The few functions of an array module that the formula needs, for plain Python numbers.
_SCALARS = types.SimpleNamespace(minimum=min, maximum=max, sqrt=math.sqrt, cos=math.cos)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The factor, from 0 to 1, by which the learning rate of an update is multiplied.

    Args:
        kind: What follows the warm-up. "linear": a straight line to ``final_fraction``. "cosine": half a cosine wave to
            ``final_fraction`` (Loshchilov & Hutter, 2017). "constant": 1. "inverse_sqrt": sqrt(warmup / update)
            (Vaswani et al., 2017), here at most 1; ignores ``steps`` and ``final_fraction``. The warm-up is also its
            time scale, as in T5X: without one, the factor is 0.03 at update 1,000.
        steps: Total optimizer updates.
        warmup_steps: Updates of linear warm-up. Update number ``warmup_steps`` is the first with the factor 1; with 0,
            the first update has it.
        final_fraction: The factor that "linear" and "cosine" reach at step ``steps``, just after the last update, so
            that no update has a rate of zero.

    Raises:
        UserError: A value is out of its range, or the kind is unknown.

    Example:
        >>> schedule = Schedule(kind="linear", steps=100, warmup_steps=10)
        >>> [schedule(step) for step in (0, 9, 55)]
        [0.1, 1.0, 0.5]
    """

    kind: str = "linear"
    steps: int
    warmup_steps: int = 0
    final_fraction: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(
                f"schedule.kind={self.kind!r} is not one of {', '.join(KINDS)}{nearest(str(self.kind), KINDS)}"
            )
        if self.steps < 1:
            raise UserError(f"schedule.steps={self.steps} must be at least 1")
        if not 0 <= self.warmup_steps <= self.steps:
            raise UserError(f"schedule.warmup_steps={self.warmup_steps} must lie between 0 and steps={self.steps}")
        if not 0.0 <= self.final_fraction <= 1.0:
            raise UserError(f"schedule.final_fraction={self.final_fraction} must lie between 0 and 1")

    def __call__(self, step: Any, xp: Any = _SCALARS) -> Any:
        """Returns the factor of one update.

        Args:
            step: Updates done before this one (0 for the first): a number, or a float32 scalar tensor.
            xp: A module with ``minimum``, ``maximum``, ``sqrt`` and ``cos`` that fits the type of ``step``: numpy,
                keras.ops, or nothing for Python numbers.
        """
        warmup = float(max(self.warmup_steps, 1))
        warm = xp.minimum((step + 1.0) / warmup, 1.0)
        if self.kind == "constant":
            return warm
        if self.kind == "inverse_sqrt":
            return warm * xp.sqrt(warmup / xp.maximum(step + 1.0, warmup))
        decay_steps = float(max(self.steps - self.warmup_steps, 1))
        progress = xp.minimum(xp.maximum((step - float(self.warmup_steps)) / decay_steps, 0.0), 1.0)
        left = 1.0 - progress if self.kind == "linear" else 0.5 * (1.0 + xp.cos(math.pi * progress))
        return warm * (self.final_fraction + (1.0 - self.final_fraction) * left)
