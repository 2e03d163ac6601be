"""The figures of the study's page: each seed's loss, the loss over the learning rate, and over the tokens."""

import importlib
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from pipeline.report.charts import COLOURS
from tools import plots
from tools.study.cells import CORPORA
from tools.study.recipes import LARGER_RATES, OPTIMIZERS

Losses = Mapping[str, float]  # by learning rate
Seeds = Mapping[int, float]  # a row's losses, by seed
LOSS = "validation loss, nats per token"
AXES = {"contexts": "context, tokens"}  # of parts whose rows have only a number as a name
NEIGHBOURS = 5  # points on either side in a curve's running mean
FAR = 1.0  # nats per token above the best at the end: omitted from the curves' panel
MEAN, SEED = COLOURS[0], COLOURS[1]
GRIDS = {"algpt2": "scaled, ALGPT2", "algpt2_momentum": "momentum, ALGPT2"} | {
    f"larger_{name}": f"{name}, larger" for name in LARGER_RATES
}


def draw(
    grid: Mapping[str, Losses],
    parts: Mapping[str, Mapping[str, Seeds]],
    curves: Mapping[str, Sequence[Sequence[float]]],
    folder: pathlib.Path,
) -> None:
    """Draws each figure that has losses, and removes the others.

    Args:
        grid: for each optimizer the loss by learning rate, of one seed; all losses are in nats per token.
        parts: for each part and row the loss by seed.
        curves: for each CORPUS: OPTIMIZER the train loss of the first seed, as (tokens, loss).
        folder: for the SVG files; created if missing.
    """
    pyplot = plots.svg_pyplot("study")
    folder.mkdir(parents=True, exist_ok=True)
    figures = {"rates": _rates(pyplot, grid), "tokens": _tokens(pyplot, curves)}
    for part, rows in parts.items():
        figures[part] = _rows(pyplot, panels({label: row for label, row in rows.items() if row}), AXES.get(part, ""))
    for file in folder.glob("*.svg"):
        if figures.get(file.stem) is None:
            file.unlink()
    for name, figure in figures.items():
        if figure is not None:
            plots.save_svg(figure, folder / f"{name}.svg")
            pyplot.close(figure)


def panels(rows: Mapping[str, Seeds]) -> dict[str, dict[str, Seeds]]:
    """Splits rows by corpus into panels with comparable losses.

    Returns:
        For each panel's title its rows, under labels that omit the title's words.
    """
    split: dict[str, dict[str, Seeds]] = {}
    for label, row in rows.items():
        corpus, colon, rest = label.partition(": ")
        split.setdefault(corpus if colon else CORPORA[0], {})[rest if colon else label] = row
    return split


def _rows(pyplot: ModuleType, split: Mapping[str, Mapping[str, Seeds]], label: str) -> Any:
    """Draws a panel with its own axis per corpus: a row's mean and deviation above ticks, one per seed."""
    if not split:
        return None
    heights = [len(rows) for rows in split.values()]
    figure, axes = pyplot.subplots(
        *(len(split), 1),
        figsize=(7, 0.8 + sum(0.75 + 0.34 * height for height in heights)),
        height_ratios=[height + 0.5 for height in heights],
        squeeze=False,
        layout="constrained",
    )
    most = max(len(row) for rows in split.values() for row in rows.values())
    for plot, (title, rows) in zip(axes.flat, split.items(), strict=True):
        for place, row in enumerate(rows.values()):
            mean, deviation = _mean(row)
            plot.errorbar(mean, place - 0.1, xerr=deviation, fmt="o", markersize=5, color=MEAN, capsize=3)
            if len(row) > 1:
                ticks = [*row.values()], [place + 0.25] * len(row)
                plot.plot(*ticks, "|", markersize=7, markeredgewidth=1.5, color=SEED)
        plot.set_yticks(range(len(rows)), rows)
        plot.set_ylim(len(rows) - 0.4, -0.6)
        plot.set_title(title, fontsize="medium", loc="left")
        plot.set_ylabel(label)
        _grid(plot, "x")
    axes.flat[-1].set_xlabel(LOSS)
    _legend(pyplot, figure, most)
    return figure


def _legend(pyplot: ModuleType, figure: Any, seeds: int) -> None:
    """Explains above all panels the dot, its bar and the ticks."""
    if seeds > 1:
        bar = pyplot.errorbar([], [], xerr=[], fmt="o", markersize=5, color=MEAN, capsize=3)
        tick = pyplot.Line2D([], [], linestyle="", marker="|", markersize=7, markeredgewidth=1.5, color=SEED)
        names = [f"mean ± standard deviation of {seeds} seeds (no bar: one seed)", "a seed"]
        long = type(bar), importlib.import_module("matplotlib.legend_handler").HandlerErrorbar(xerr_size=1.1)
        style = {"fontsize": "small", "frameon": False, "handlelength": 2.5, "handler_map": dict([long])}
        figure.legend([bar, tick], names, loc="outside upper center", ncols=2, **style)


def _rates(pyplot: ModuleType, grid: Mapping[str, Losses]) -> Any:
    """Draws the loss over the learning rate, a curve per optimizer, and rings the chosen rate.

    Grids of models other than the base one, whose losses are not comparable, have their own panel.
    """
    drawn = {name: losses for name, losses in grid.items() if losses}
    split = [{name: drawn[name] for name in drawn if (name in OPTIMIZERS) is base} for base in (True, False)]
    panels = [curves for curves in split if curves]
    if not panels:
        return None
    figure, axes = pyplot.subplots(1, len(panels), figsize=(8, 4.2), squeeze=False, layout="constrained")
    for plot, curves in zip(axes.flat, panels, strict=True):
        for number, (name, losses) in enumerate(curves.items()):
            colour = COLOURS[number % len(COLOURS)]
            points = sorted((float(rate), loss) for rate, loss in losses.items())
            plot.plot(*zip(*points, strict=True), "o-", markersize=4, color=colour, label=GRIDS.get(name, name))
            best = min(points, key=lambda point: point[1])
            plot.plot(*best, "o", markersize=10, fillstyle="none", color=colour)
        plot.plot([], [], "o", markersize=10, fillstyle="none", color=COLOURS[-1], label="chosen")
        plot.set(xscale="log", xlabel="learning rate")
        plot.set_title("the base model" if curves is split[0] else "other models", fontsize="medium", loc="left")
        plot.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2, fontsize="small", frameon=False)
        _grid(plot, "both")
    axes.flat[0].set_ylabel(LOSS)
    return figure


def _tokens(pyplot: ModuleType, curves: Mapping[str, Sequence[Sequence[float]]]) -> Any:
    """Draws the train loss over the tokens, a panel for each corpus and a curve for each optimizer.

    All see the same batches, whose difficulty moves all curves alike; running means separate them. A panel omits curves
    far above the best at the end; its title says so.
    """
    corpora = list(dict.fromkeys(label.partition(": ")[0] for label in curves))
    if not corpora:
        return None
    figure, axes = pyplot.subplots(1, len(corpora), figsize=(8, 4.2), squeeze=False, layout="constrained")
    colours = {name: COLOURS[place] for place, name in enumerate(dict.fromkeys(map(_optimizer, curves)))}
    shown: dict[str, Any] = {}
    for plot, corpus in zip(axes.flat, corpora, strict=True):
        means = {
            _optimizer(label): _running_mean(points) for label, points in curves.items() if _corpus(label) == corpus
        }
        best = min(points[-1][1] for points in means.values())
        near = {name: points for name, points in means.items() if points[-1][1] < best + FAR}
        for name, points in means.items():
            tokens, losses = zip(*points, strict=True) if name in near else ((), ())
            label = name if name in near else f"{name} (above)"
            line = plot.plot([count / 1e6 for count in tokens], losses, color=colours[name], label=label)[0]
            shown.setdefault(name, line)
        late = [loss for points in near.values() for tokens, loss in points if tokens > points[-1][0] / 8]
        plot.set_ylim(min(late) - 0.05, max(late) + 0.05)  # all begin alike, far above where they differ
        plot.set_title(corpus, fontsize="medium", loc="left")
        plot.set_xlabel("tokens, millions")
        _grid(plot, "both")
    axes.flat[0].set_ylabel("train loss, nats per token, running mean")
    figure.legend(handles=[*shown.values()], loc="outside upper center", ncols=3, fontsize="small", frameon=False)
    return figure


def _corpus(label: str) -> str:
    return label.partition(": ")[0]


def _optimizer(label: str) -> str:
    return label.partition(": ")[2]


def _running_mean(points: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    """Returns the mean of each point's loss and its neighbors'; at the ends there are fewer."""
    losses = [loss for _, loss in points]
    return [
        (tokens, statistics.mean(losses[max(0, place - NEIGHBOURS) : place + NEIGHBOURS + 1]))
        for place, (tokens, _) in enumerate(points)
    ]


def _mean(row: Seeds) -> tuple[float, float]:
    values = [*row.values()]
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def _grid(plot: Any, axis: str) -> None:
    plot.grid(axis=axis, color=plots.GRID)
    plot.set_axisbelow(True)
