"""The figures of a report as PNG and SVG files, drawn with matplotlib."""

import math
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.report.charts import COLOURS, AxisFigure, Figure
from pipeline.report.read import Run
from tools import plots

FEW = 60  # curves with at most as many points have markers
DASHES = ("-", "--", ":")  # when the colors repeat
INSIDE = 4  # entries of a legend over the curves; a longer one goes below them
HALF = 50  # characters of an entry that takes half the width
NAMED = 12  # runs that a legend names
SKIPPED = "#b5600a"  # a skipped update of a run alone


def write(
    runs: Sequence[Run],
    drawn: Sequence[Figure],
    axes: Sequence[AxisFigure],
    output: pathlib.Path,
    formats: Sequence[str],
) -> Iterator[pathlib.Path]:
    """Draws every figure in these formats beside the page; yields the files."""
    pyplot = plots.svg_pyplot("report")
    figures: list[Figure | AxisFigure] = [*drawn, *axes]
    for figure in figures:
        canvas, plot = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
        if isinstance(figure, Figure):
            _by_step(plot, figure, runs)
        else:
            _over_setting(plot, figure)
        plot.set(title=figure.title, ylabel=figure.y_label)
        plot.grid(color=plots.GRID, linewidth=0.6)
        plot.set_axisbelow(True)
        handles, labels = plot.get_legend_handles_labels()
        if len(labels) > INSIDE:
            columns = 2 if max(map(len, labels)) <= HALF else 1
            canvas.set_figheight(4.5 + 0.22 * math.ceil(len(labels) / columns))
            canvas.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize="small", frameon=False)
        elif labels:
            plot.legend(fontsize="small", framealpha=0.85)
        for name in formats:
            path = output.with_name(f"{output.stem}-{figure.name}.{name}")
            if name == "svg":
                plots.save_svg(canvas, path)
            else:
                canvas.savefig(path, format=name, dpi=120)
            yield path
        pyplot.close(canvas)


def _by_step(plot: Any, figure: Figure, runs: Sequence[Run]) -> None:
    marked = figure.name in ("loss", "gradient-norm")
    for number, (run, curve) in enumerate(zip(runs, figure.curves, strict=True)):
        if not curve:
            continue
        style = {"color": COLOURS[number % len(COLOURS)], "linestyle": DASHES[number // len(COLOURS) % len(DASHES)]}
        mean = figure.means[number] if figure.means else []
        label = run.name if number < NAMED else None
        marker = "o" if len(curve) <= FEW else None
        _line(
            plot, curve, **style, marker=marker, markersize=3, alpha=0.3 if mean else 1, label=None if mean else label
        )
        if mean:
            _line(plot, mean, **style, label=f"{label}, mean" if label else None)
        for step in run.restarts():
            plot.axvline(step, **style | {"linestyle": (0, (4, 4))}, linewidth=1)
        steps = [incident["step"] for incident in run.incidents if "step" in incident]
        if marked and steps:
            finite = [point for point in curve if math.isfinite(point[1])]
            values = [min(finite, key=lambda point: abs(point[0] - step))[1] for step in steps] if finite else []
            if values:
                colour = style["color"] if len(runs) > 1 else SKIPPED
                plot.plot(steps, values, "x", color=colour, markersize=7, markeredgewidth=2, zorder=3)
    if len(runs) > NAMED:
        plot.plot([], [], " ", label=f"and {len(runs) - NAMED} more")
    if any(run.restarts() for run in runs):
        plot.plot([], [], color="#666666", linestyle=(0, (4, 4)), label="restart")
    if marked and any(run.incidents for run in runs):
        plot.plot([], [], "x", color="#666666", markersize=7, markeredgewidth=2, label="skipped update")
    plot.set_xlabel("step")


def _line(plot: Any, curve: Sequence[tuple[float, float]], **style: Any) -> None:
    plot.plot([x for x, _ in curve], [y for _, y in curve], **style)


def _over_setting(plot: Any, figure: AxisFigure) -> None:
    for number, (label, losses) in enumerate(figure.lines):
        points = [(x, loss) for x, loss in zip(figure.x, losses, strict=True) if loss is not None]
        style = {"color": COLOURS[number % len(COLOURS)], "linestyle": DASHES[number // len(COLOURS) % len(DASHES)]}
        _line(plot, points, **style, marker="o", label=label)
    if figure.logarithmic:
        plot.set_xscale("log")
    if figure.categories:
        plot.set_xticks(figure.x, figure.categories)
    plot.set_xlabel(figure.x_label)
