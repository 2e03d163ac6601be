"""The page of tools.report: figures as SVG, tables, samples; colours follow the reader's light or dark setting."""

import html
import itertools
import math
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from tools.report.tables import tables

POINTS = 800  # of a curve, at most
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 480, 260, 58, 12, 12, 30
COLOURS = ("#2f7fd6", "#d9632b", "#2e9e62", "#a35bc9", "#b8901a", "#c9447a")
SHOWN_SAMPLES = 5

Curve = list[tuple[float, float]]

STYLE = """
:root{color-scheme:light dark;--ink:#1c2228;--paper:#fff;--soft:#66717c;--line:#d9dfe4;--warn:#9a5200;--card:#f6f8f9}
@media(prefers-color-scheme:dark){:root{--ink:#e3e8ec;--paper:#14181c;--soft:#97a3ae;--line:#333c44;--warn:#f0ad5a;
--card:#1b2126}}
*{box-sizing:border-box}body{margin:0 auto;max-width:1080px;padding:16px;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,sans-serif;overflow-wrap:anywhere}h1{font-size:1.5em}h2{font-size:1.15em;margin:1.6em 0 .4em}
h3{font-size:1em}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));gap:16px}
figure{margin:0;background:var(--card);border:1px solid var(--line);border-radius:8px;padding:8px}
figcaption{font-weight:600;font-size:.9em}svg{width:100%;height:auto;display:block}svg text{fill:var(--soft);
font:14px system-ui,sans-serif}.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.9em}
td,th{padding:4px 12px 4px 0;border-bottom:1px solid var(--line);text-align:left;min-width:4.5em;max-width:22em;
overflow-wrap:break-word;vertical-align:top}
pre{white-space:pre-wrap;background:var(--card);padding:8px;border-radius:8px;font-size:.85em}
.note{color:var(--soft);font-size:.9em}.warning{color:var(--warn);font-weight:600}
.key{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin-right:.4em}.runs{list-style:none;padding:0}
"""


class Figure(NamedTuple):
    """One figure: a curve for each run, in the runs' order, and steps at which updates were skipped."""

    name: str
    title: str
    axis: str
    curves: list[Curve]
    marks: list[list[float]]


def figures(runs: Sequence[Any]) -> list[Figure]:
    """Returns the figures that at least one run has points for."""
    incidents = [[incident["step"] for incident in run.incidents if "step" in incident] for run in runs]
    none: list[list[float]] = [[] for _ in runs]

    def of(name: str, title: str, y: str, x: str = "step") -> Figure:
        curves = [thin(run.points(x, y)) for run in runs]
        return Figure(name, title, x, curves, incidents if x == "step" and y in ("loss", "grad_norm") else none)

    drawn = [
        of("loss-by-step", "Train loss, nats per token", "loss"),
        of("loss-by-tokens", "Train loss, nats per token", "loss", "tokens"),
        of("validation", "Validation, nats per token", "validation.nats_per_token"),
        of("learning-rate", "Learning rate", "learning_rate"),
        of("gradient-norm", "Gradient norm before clipping", "grad_norm"),
        of("throughput", "Tokens per second", "tokens_per_second"),
        of("share-of-peak", "Share of peak", "mfu"),
        Figure("goodput", "Goodput: share of the time in steps", "step", [thin(run.goodput()) for run in runs], none),
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
    for number, (curve, marks) in enumerate(zip(figure.curves, figure.marks, strict=True)):
        colour = COLOURS[number % len(COLOURS)]
        for step in [mark for mark in marks if x0 <= mark <= x1][:200]:
            across = place(step, y0).split(",")[0]
            parts.append(f'<path d="M{across},{TOP}V{HEIGHT - BOTTOM}" stroke="{colour}" stroke-dasharray="2 4"/>')
        grouped = itertools.groupby(curve, key=lambda point: math.isfinite(point[1]))
        for piece in [list(group) for finite, group in grouped if finite]:
            if len(piece) == 1:
                across, down = place(*piece[0]).split(",")
                parts.append(f'<circle cx="{across}" cy="{down}" r="3" fill="{colour}"/>')
            else:
                line = " ".join(place(*point) for point in piece)
                parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
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


def page(runs: Sequence[Any], drawn: Sequence[Figure]) -> str:
    """Returns the whole page."""
    keys = "".join(
        f'<li><span class="key" style="background:{COLOURS[number % len(COLOURS)]}"></span>{html.escape(run.name)}'
        f"{'' if run.summary else ' (not done)'}</li>"
        for number, run in enumerate(runs)
    )
    shown = "".join(
        f"<figure><figcaption>{html.escape(figure.title)}, by {figure.axis}</figcaption>{svg(figure)}</figure>"
        for figure in drawn
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        'content="width=device-width,initial-scale=1"><link rel="icon" href="data:,"><title>Report of runs</title>'
        f"<style>{STYLE}</style></head><body><h1>Report of {len(runs)} run{'s' * (len(runs) > 1)}</h1>"
        f'<ul class="runs">{keys}</ul><div class="grid">{shown}</div><p class="note">A curve of more than {POINTS} '
        "records is thinned to the lowest and highest of each stretch. Gaps are values that are not finite, dashed "
        f"lines skipped updates.</p>{tables(runs)}{_samples(runs)}</body></html>\n"
    )


def _samples(runs: Sequence[Any]) -> str:
    sections = ""
    for run in runs:
        samples = [sample.partition(" ===") for sample in run.samples.split("=== step ")[1:]][-SHOWN_SAMPLES:]
        shown = "".join(
            f"<pre>step {html.escape(step)}\n{html.escape(text.strip())}</pre>" for step, _, text in samples
        )
        sections += f"<h3>{html.escape(run.name)}</h3>{shown}" if shown else ""
    return f"<h2>Samples, the newest {SHOWN_SAMPLES}</h2>{sections}" if sections else ""


def write_pngs(drawn: Sequence[Figure], output: pathlib.Path) -> list[pathlib.Path]:
    """Draws every figure with matplotlib beside the page; returns the files."""
    from matplotlib.figure import Figure as Canvas

    paths = []
    for figure in drawn:
        canvas = Canvas(figsize=(7, 4), layout="constrained")
        axes = canvas.subplots()
        for number, curve in enumerate(figure.curves):
            if curve:
                marker = "o" if len(curve) == 1 else None
                axes.plot(*zip(*curve, strict=True), color=COLOURS[number % len(COLOURS)], marker=marker)
        axes.set(title=figure.title, xlabel=figure.axis)
        paths.append(output.with_name(f"{output.stem}-{figure.name}.png"))
        canvas.savefig(paths[-1], dpi=120)
    return paths
