"""The cells of the measurement, as curves of the loss over the learning rate, and what is read off a curve.

Imports neither TensorFlow nor Keras.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from tools.study.cells import Cell
from tools.study.store import Store

BASE = Cell(corpus="cpython", optimizer="ours", layers=2, width=128, context=128, batch=16, tokens=524_288)
RULE = "by_width"  # BASE's recipe with Adafactor.base_width = BASE.width; at that width they are the same
WITHOUT, WITH, PLAIN = "Without the rule", "With the rule", "With the rule, without momentum"  # parts of the page
NARROW = (0.08, 0.11, 0.16, 0.32)  # rates at BASE's width
LOW, MIDDLE = (0.04, 0.08, 0.16), (0.04, 0.08, 0.11, 0.16)  # rates at other widths


@dataclass(frozen=True)
class Curve:
    """Runs that differ in their learning rate only.

    Args:
        part: the table of the page that it belongs to.
        width: the model's, in which it differs from the part's other curves.
        cells: one run for each learning rate.
    """

    part: str
    width: int
    cells: tuple[Cell, ...]

    def points(self, store: Store) -> dict[float, float]:
        """Returns the loss (nats per token) by rate; what was not run is left out."""
        return {cell.rate: loss for cell in self.cells if (loss := store.loss(cell)) is not None}


def curves() -> list[Curve]:
    """Returns all curves that the page shows; some have cells in common."""

    def over(part: str, width: int, cell: Cell, *rates: float) -> Curve:
        return Curve(part, width, tuple(replace(cell, rate=rate) for rate in rates))

    def at(width: int, optimizer: str = BASE.optimizer) -> Cell:
        return replace(BASE, width=width, optimizer=optimizer)

    return [
        over(WITHOUT, 128, BASE, *NARROW),
        *(over(WITHOUT, width, at(width), *LOW) for width in (256, 512)),
        over(WITH, 128, BASE, *NARROW),
        *(over(WITH, width, at(width, RULE), *MIDDLE) for width in (256, 512)),
        over(PLAIN, 128, at(128, "scaled"), *LOW),
        over(PLAIN, 512, at(512, "by_width_plain"), *LOW),
    ]


@dataclass(frozen=True)
class Parabola:
    """The parabola through the three lowest losses of a curve, over the logarithm of the learning rate.

    Args:
        best_rate: where it is lowest.
        lowest: the loss there (nats per token).
        curvature: what a rate that is off by a factor of e costs (nats per token).
    """

    best_rate: float
    lowest: float
    curvature: float

    def lost_at(self, rate: float) -> float:
        """Returns by how much the loss at this rate is above the lowest (nats per token)."""
        return self.curvature * math.log(rate / self.best_rate) ** 2


def parabola(points: Mapping[float, float]) -> Parabola | None:
    """Returns the parabola of a curve, loss by rate; None if it is not lowest between the three rates.

    Example:
        >>> parabola({0.08: 4.5, 0.16: 4.4, 0.32: 4.5}).best_rate
        0.16
    """
    rates = sorted(sorted(points, key=points.__getitem__)[:3])
    if len(rates) < 3:
        return None
    (x0, y0), (x1, y1), (x2, y2) = ((math.log(rate), points[rate]) for rate in rates)
    left, right = (y1 - y0) / (x1 - x0), (y2 - y1) / (x2 - x1)
    curvature = (right - left) / (x2 - x0)
    if curvature <= 0:
        return None
    x = (x0 + x1) / 2 - left / (2 * curvature)
    return Parabola(math.exp(x), y1 - curvature * (x1 - x) ** 2, curvature) if x0 <= x <= x2 else None
