"""The measurement's cells, as curves of the loss over the learning rate, and the optimum of a curve.

Imports neither TensorFlow nor Keras.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tools.study.cells import Cell
from tools.study.recipes import RECIPES
from tools.study.store import Store

BASE = Cell(corpus="cpython", optimizer="scaled", layers=2, width=128, context=128, batch=16, tokens=524_288)
LONGER = replace(BASE, tokens=2_048_000)
RULE = "by_width"  # BASE's recipe with Adafactor.base_width = BASE.width; at that width they are the same
WITHOUT, WITH, MOMENTUM = "Without the rule", "With the rule", "With the rule and momentum"  # parts of the page
DEPTH, BATCH, TOKENS = "Deeper", "Larger batches", "More tokens"
LOWEST, LOW, MIDDLE = (0.02, 0.04, 0.08), (0.04, 0.08, 0.16), (0.08, 0.11, 0.16)  # rates


@dataclass(frozen=True)
class Curve:
    """Runs that differ only in their learning rate.

    Args:
        value: of the setting that differs from the part's other curves.
        cells: one run per learning rate.
    """

    value: int
    cells: tuple[Cell, ...]

    def points(self, store: Store) -> dict[float, float]:
        """Returns the loss (nats per token) by rate, without missing runs."""
        return {cell.rate: loss for cell in self.cells if (loss := store.loss(cell)) is not None}


@dataclass(frozen=True)
class Part:
    """A table and a panel of the page: curves that differ in one setting.

    Args:
        title: its heading.
        setting: the one that differs between curves.
        curves: the others are compared with the first one's best rate.
        model: what all runs share, for the page; empty if it is as in the page's head.
    """

    title: str
    setting: str
    curves: tuple[Curve, ...]
    model: str = ""


def parts() -> list[Part]:
    """Returns all parts of the page; some curves and cells are in several."""

    def over(value: int, cell: Cell, rates: Sequence[float]) -> Curve:
        return Curve(value, tuple(replace(cell, rate=rate) for rate in rates))

    def wider(width: int, optimizer: str, rates: Sequence[float] = MIDDLE) -> Curve:
        return over(width, replace(BASE, width=width, optimizer=optimizer), rates)

    narrow = over(BASE.width, BASE, (0.04, *MIDDLE))
    longer = over(LONGER.layers, LONGER, RECIPES["scaled"].rates)
    depths = [over(layers, replace(LONGER, layers=layers), LOW) for layers in (4, 8)]
    batches = [over(batch, replace(LONGER, batch=batch), LOW) for batch in (64, 256)]
    most = over(4 * LONGER.tokens, replace(LONGER, tokens=4 * LONGER.tokens), LOW)
    return [
        Part(WITHOUT, "width", (narrow, wider(256, BASE.optimizer, LOW), wider(512, BASE.optimizer, LOWEST))),
        Part(WITH, "width", (narrow, *(wider(width, RULE) for width in (192, 256, 384, 512)))),
        Part(MOMENTUM, "width", (wider(BASE.width, "momentum"), wider(512, "by_width_momentum")), "`beta1 = 0.9`."),
        Part(DEPTH, "layers", (longer, *depths), f"{LONGER.tokens:,} tokens."),
        Part(BATCH, "sequences a step", (replace(longer, value=LONGER.batch), *batches), f"{LONGER.tokens:,} tokens."),
        Part(TOKENS, "tokens", (replace(narrow, value=BASE.tokens), replace(longer, value=LONGER.tokens), most)),
    ]


@dataclass(frozen=True)
class Parabola:
    """The parabola through a curve's three lowest losses, over the logarithm of the learning rate.

    Args:
        best_rate: its minimum.
        lowest: the loss there (nats per token).
        curvature: the cost of a rate that is off by a factor of e (nats per token).
    """

    best_rate: float
    lowest: float
    curvature: float

    def lost_at(self, rate: float) -> float:
        """Returns how far the loss at this rate is above the lowest (nats per token)."""
        return self.curvature * math.log(rate / self.best_rate) ** 2


def parabola(points: Mapping[float, float]) -> Parabola | None:
    """Returns the parabola of a curve (loss by rate); None if its minimum is not between the three rates.

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
