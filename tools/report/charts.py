"""The charts of tools.report: which there are, as SVG for the page, and as PNG files."""

import html
import itertools
import math
import pathlib
import statistics
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

POINTS = 800  # of a curve, at most
MEANS = 100  # points of its means, where there are many
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 480, 260, 58, 12, 12, 30
COLOURS = ("#2f7fd6", "#d9632b", "#2e9e62", "#a35bc9", "#b8901a", "#c9447a")

Curve = list[tuple[float, float]]


class Figure(NamedTuple):
    """One figure: for each run, in the runs' order, a curve, its means and the steps at which updates were skipped."""

    name: str
    title: str
    x_label: str
    curves: list[Curve]
    means: list[Curve]
    marks: list[list[float]]


def figures(runs: Sequence[Any]) -> list[Figure]:
    """Returns the figures that at least one run has points for."""
    incidents = [[incident["step"] for incident in run.incidents if "step" in incident] for run in runs]
    none: list[list[Any]] = [[] for _ in runs]

    def of(name: str, title: str, y: str, x: str = "step") -> Figure:
        whole = [run.points(x, y) for run in runs]
        curves, is_noisy = [thin(curve) for curve in whole], y in ("loss", "grad_norm")
        marks = incidents if x == "step" and is_noisy else none
        return Figure(name, title, x, curves, [means(curve) for curve in whole] if is_noisy else none, marks)

    drawn = [
        of("loss-by-step", "Train loss, nats per token", "loss"),
        of("loss-by-tokens", "Train loss, nats per token", "loss", "tokens"),
        of("validation", "Validation, nats per token", "validation.nats_per_token"),
        of("learning-rate", "Learning rate", "learning_rate"),
        of("gradient-norm", "Gradient norm before clipping", "grad_norm"),
        of("throughput", "Tokens per second", "tokens_per_second"),
        of("share-of-peak", "Share of peak", "mfu"),
        Figure(
            "goodput", "Goodput: share of the time in steps", "step", [thin(run.goodput()) for run in runs], none, none
        ),
    ]
    return [figure for figure in drawn if any(figure.curves)]


def thin(curve: Curve, most: int = POINTS) -> Curve:
    """Returns at most about ``most`` points: the lowest and the highest of each stretch and, if there is one, a gap."""
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
    """Returns the mean of each stretch of a long curve, whose finite points alone count; [] for a short one."""
    size = math.ceil(len(curve) / most)
    stretches = [curve[first : first + size] for first in range(0, len(curve), size)] if size > 1 else []
    finite = [[point for point in stretch if math.isfinite(point[1])] for stretch in stretches]
    return [(statistics.fmean(x), statistics.fmean(y)) for x, y in (zip(*some, strict=True) for some in finite if some)]


def svg(figure: Figure) -> str:
    """Returns a figure as SVG: a single point is a dot, a gap stays open, a skipped update is a dashed line."""
    points = [point for curve in figure.curves for point in curve if math.isfinite(point[1])]
    if not points:
        return '<p class="note">No finite value.</p>'
    x0, x1 = _range(x for curve in figure.curves for x, _ in curve)
    y0, y1 = _range(y for _, y in points)

    def place(x: float, y: float) -> str:
        across = LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)
        return f"{across:.1f},{HEIGHT - BOTTOM - (y - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM):.1f}"

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(figure.title)}">']
    for share in (0, 0.5, 1):
        y, x = y0 + share * (y1 - y0), x0 + share * (x1 - x0)
        across, down = place(x, y).split(",")
        anchor = {0: "start", 0.5: "middle", 1: "end"}[share]
        parts.append(f'<path d="M{LEFT},{down}H{WIDTH - RIGHT}" stroke="var(--line)"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{float(down) + 5:.0f}" text-anchor="end">{short(y)}</text>')
        parts.append(f'<text x="{across}" y="{HEIGHT - 8}" text-anchor="{anchor}">{short(x)}</text>')
    for number, (curve, mean, marks) in enumerate(zip(figure.curves, figure.means, figure.marks, strict=True)):
        colour = COLOURS[number % len(COLOURS)]
        for step in [mark for mark in marks if x0 <= mark <= x1][:200]:
            across = place(step, y0).split(",")[0]
            parts.append(f'<path d="M{across},{TOP}V{HEIGHT - BOTTOM}" stroke="{colour}" stroke-dasharray="2 4"/>')
        for line, opacity in ((curve, 0.3 if mean else 1), (mean, 1)):
            grouped = itertools.groupby(line, key=lambda point: math.isfinite(point[1]))
            for piece in [list(group) for finite, group in grouped if finite]:
                places = [place(*point) for point in piece]
                if len(piece) == 1:
                    across, down = places[0].split(",")
                    parts.append(f'<circle cx="{across}" cy="{down}" r="3" fill="{colour}"/>')
                else:
                    style = f'fill="none" stroke="{colour}" stroke-width="1.6" stroke-opacity="{opacity}"'
                    parts.append(f'<polyline points="{" ".join(places)}" {style}/>')
    return "".join([*parts, "</svg>"])


def _range(values: Iterable[float]) -> tuple[float, float]:
    numbers = list(values)
    low, high = min(numbers), max(numbers)
    margin = (abs(low) or 1.0) / 2 if low == high else 0.0
    return low - margin, high + margin


def short(value: float) -> str:
    """Writes a number in few characters: 1.5M, 20k, 0.25, 3.0e-05."""
    for unit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= unit:
            return f"{value / (1e3 if letter == 'k' else unit):.3g}{letter}"
    return f"{value:.4g}" if abs(value) >= 0.1 or not value else f"{value:.1e}"


def write_pngs(drawn: Sequence[Figure], output: pathlib.Path) -> list[pathlib.Path]:
    """Draws every figure with matplotlib beside the page; returns the files."""
    from matplotlib.figure import Figure as Canvas

    paths = []
    for figure in drawn:
        canvas = Canvas(figsize=(7, 4), layout="constrained")
        axes = canvas.subplots()
        for number, (curve, mean) in enumerate(zip(figure.curves, figure.means, strict=True)):
            for line, alpha in ((curve, 0.3 if mean else 1), (mean, 1)):
                marker = "o" if len(line) == 1 else None
                x, y = [point[0] for point in line], [point[1] for point in line]
                axes.plot(x, y, color=COLOURS[number % len(COLOURS)], marker=marker, alpha=alpha)
        axes.set(title=figure.title, xlabel=figure.x_label)
        paths.append(output.with_name(f"{output.stem}-{figure.name}.png"))
        canvas.savefig(paths[-1], dpi=120)
    return paths
