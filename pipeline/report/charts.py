"""The figures of a report and their points."""

import math
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from pipeline.report.read import Run

MOST, LEAST = 4000, 100  # maximum points of a curve: for a single run, and for one of many
ALL = 12_000  # points of all runs' curves in one figure, in total
MEANS = 1000  # points of a curve's means, if it has many points
MARKS = 200  # skipped updates and restarts marked per run
NOISY = ("loss", "grad_norm")
COLOURS = ("#2f7fd6", "#d9632b", "#2e9e62", "#a35bc9", "#b8901a", "#c9447a", "#1a9aa8", "#7d8b2a", "#8a6d5a", "#6f7f90")

Curve = list[tuple[float, float]]


class Figure(NamedTuple):
    """One figure: for each run, in the runs' order, a curve by step, and its means if it has very many points."""

    name: str
    title: str
    y_label: str
    curves: list[Curve]
    means: list[Curve]


class AxisFigure(NamedTuple):
    """A sweep's losses over one of its settings: one line per choice of the others."""

    name: str
    title: str
    x_label: str
    y_label: str
    x: list[float]  # ascending; places of ``categories`` if there are any
    categories: list[str]
    logarithmic: bool
    lines: list[tuple[str, list[float | None]]]  # the other settings, and the loss at each x


def figures(runs: Sequence[Run]) -> list[Figure]:
    """Returns the figures that at least one run has points for."""
    most = max(LEAST, min(MOST, ALL // max(1, len(runs))))

    def of(name: str, title: str, y_label: str, y: str) -> Figure:
        whole = [run.points(y) for run in runs]
        averaged = [means(curve) if y in NOISY and len(curve) > most else [] for curve in whole]
        return Figure(name, title, y_label, [thin(curve, most) for curve in whole], averaged)

    drawn = [
        of("loss", "Train loss", "nats per token", "loss"),
        of("validation", "Validation loss", "nats per token", "validation.nats_per_token"),
        of("learning-rate", "Learning rate", "learning rate", "learning_rate"),
        of("gradient-norm", "Gradient norm before clipping", "norm", "grad_norm"),
        of("throughput", "Throughput", "tokens per second", "tokens_per_second"),
        of("share-of-peak", "Share of the devices' peak", "share", "mfu"),
        Figure(
            "goodput", "Goodput: share of the time in steps", "share", [thin(run.goodput(), most) for run in runs], []
        ),
    ]
    return [figure for figure in drawn if any(math.isfinite(y) for curve in figure.curves for _, y in curve)]


def thin(curve: Curve, most: int = MOST) -> Curve:
    """Returns at most about ``most`` points: each stretch's lowest and highest and, if there is one, a gap."""
    if len(curve) <= most:
        return curve
    size, thinned = math.ceil(2 * len(curve) / most), [curve[0]]
    for first in range(1, len(curve) - 1, size):
        stretch = curve[first : min(first + size, len(curve) - 1)]
        finite = [point for point in stretch if math.isfinite(point[1])]
        ends = {min(finite, key=lambda point: point[1]), max(finite, key=lambda point: point[1])} if finite else set()
        gaps = [point for point in stretch if not math.isfinite(point[1])][:1]
        thinned += sorted([*ends, *gaps], key=lambda point: point[0])
    return [*thinned, curve[-1]]


def means(curve: Curve, most: int = MEANS) -> Curve:
    """Returns the mean of the finite points of each stretch of a long curve; [] for a short one."""
    size = math.ceil(len(curve) / most)
    stretches = [curve[first : first + size] for first in range(0, len(curve), size)] if size > 1 else []
    finite = [[point for point in stretch if math.isfinite(point[1])] for stretch in stretches]
    return [(statistics.fmean(x), statistics.fmean(y)) for x, y in (zip(*some, strict=True) for some in finite if some)]


def as_json(runs: Sequence[Run], drawn: Sequence[Figure], axes: Sequence[AxisFigure] = ()) -> dict[str, Any]:
    """Returns the data for the page's script."""
    return {
        "colours": COLOURS,
        "runs": [
            {
                "name": run.name,
                "tokens_per_step": run.records[-1].get("tokens", 0) / max(1, run.records[-1]["step"]),
                "hours": _columns(_some(run.hours())),
                "skipped": [
                    [incident["step"], incident.get("reason", "")] for incident in run.incidents if "step" in incident
                ][:MARKS],
                "restarts": run.restarts()[:MARKS],
            }
            for run in runs
        ],
        "figures": [
            {
                "name": figure.name,
                "title": figure.title,
                "y": figure.y_label,
                "noisy": figure.name in ("loss", "gradient-norm"),
                "curves": [_columns(curve) for curve in figure.curves],
                "means": [_columns(curve) for curve in figure.means],
            }
            for figure in drawn
        ],
        "axes": [figure._asdict() for figure in axes],
    }


def _some(curve: Curve, most: int = 300) -> Curve:
    """Returns evenly spaced points, including the first and the last."""
    if len(curve) <= most:
        return curve
    return [curve[round(number * (len(curve) - 1) / (most - 1))] for number in range(most)]


def _columns(curve: Curve) -> tuple[list[float], list[float | None]]:
    """Returns x and y, to seven digits and without a needless '.0'; None for NaN and infinity."""
    return [_short(x) for x, _ in curve], [_short(y) if math.isfinite(y) else None for _, y in curve]


def _short(value: float) -> float:
    return int(value) if value == int(value) and abs(value) < 1e15 else float(f"{value:.7g}")
