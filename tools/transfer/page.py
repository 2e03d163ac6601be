"""Writes docs/transfer.md and its picture from the stored losses; no figure in them comes from anywhere else."""

import pathlib
from collections.abc import Sequence

from pipeline.errors import UserError
from tools import plots
from tools.study.cells import VOCABULARY
from tools.study.store import Store
from tools.transfer.curves import BASE, WITH, Part, parabola, parts

COLORS = ("#3d85c6", "#e08214", "#4d9221", "#c51b7d", "#8073ac")  # readable on white and on black
TICKS = (0.02, 0.04, 0.08, 0.16, 0.32)
COLUMNS = 3
HEAD = """# The learning rate of a wider model

Written by `python -m tools.transfer`; nothing here is typed by hand.

It is cheap to tune a learning rate on a narrow model and a short run. Is it right for a wide model and a long run? With
parameter scaling, Adafactor changes a block's matrices in proportion to their initial size, which is the same at every
width; a layer's output changes more if it has more inputs. The rule: with `Adafactor.base_width = {width}`, the rate of
these matrices is multiplied by {width} / width, as for Adam in muP ([Yang et al.
2022](https://arxiv.org/abs/2203.03466)). Tables, norms and biases keep the rate.

Unless a part below says otherwise, the model is a GPT-2 of {layers} layers, heads of width 64 and a vocabulary of
{vocabulary:,}. It trains on {batch} sequences of {context} tokens per step, {tokens:,} tokens of the documentation and
library of CPython {python}, with the optimizer of `gpt2.gin`, Adafactor with parameter scaling and without momentum, a
linear schedule with a tenth of warm-up, and one seed. Losses are over the whole validation part, in nats per token. The
best rate is the minimum of a parabola through the three lowest losses, over the rate's logarithm. *Lost* is how far,
by that parabola, the best rate of a table's first row ends above a row's own best.

"""
NOT_MEASURED = """## Not measured

Widths above 512, ALGPT2, more than one seed, and any run on a pod. 90,000 steps of 524,288 tokens are far outside
what was measured here.
"""


def write(output: pathlib.Path, store: Store, missing: int) -> None:
    """Writes the page and its picture beside it; UserError if the losses do not show the base's best rate.

    Args:
        output: the page.
        store: the results.
        missing: the number of runs without a loss, which the page states.
    """
    head = HEAD.format(
        width=BASE.width, layers=BASE.layers, vocabulary=VOCABULARY, batch=BASE.batch, context=BASE.context,
        tokens=BASE.tokens, python=store.content["python"],
    )  # fmt: skip
    picture = output.with_suffix(".svg")
    text = [f"**{missing} runs are missing; `python -m tools.transfer` resumes with them.**\n"] if missing else []
    text.append(f"![Loss over the learning rate, a line for each width, depth, batch or length]({picture.name})\n")
    drawn = [part for part in parts() if sum(len(curve.points(store)) > 1 for curve in part.curves) > 1]
    if WITH not in {part.title for part in drawn}:
        raise UserError(f"{output}: the losses of {WITH!r} are missing; python -m tools.transfer measures them")
    text += ["".join(f"- {_verdict(part, store)}\n" for part in drawn)]
    text += [_section(part, store) for part in parts()]
    _draw(drawn, store, picture)
    output.write_text(head + "\n".join([*text, NOT_MEASURED]), encoding="utf-8")


def _verdict(part: Part, store: Store) -> str:
    first, last = part.curves[0], part.curves[-1]
    base, best = parabola(first.points(store)), parabola(last.points(store))
    value = f"{part.title}, {part.setting} {last.value:,}"
    if not (base and best):
        return f"{value}: the best rate is unknown: it needs three rates around it."
    times, lost = best.best_rate / base.best_rate, best.lost_at(base.best_rate)
    return (
        f"{value}: the best rate is {times:.2f} times that of {first.value:,}, which costs {lost:.3f} nats per token "
        "there."
    )


def _section(part: Part, store: Store) -> str:
    base = parabola(part.curves[0].points(store))
    lines = [f"| {part.setting} | best rate | loss there | lost | loss at each rate |", "|---|---|---|---|---|"]
    for curve in part.curves:
        points = curve.points(store)
        best = parabola(points)
        figures = "not between those run | — | —"
        if best:
            lost = f"{best.lost_at(base.best_rate):.3f}" if base else "—"
            figures = f"{best.best_rate:.3f} | {best.lowest:.3f} | {lost}"
        losses = ", ".join(f"{rate:g}: {loss:.3f}" for rate, loss in points.items())
        lines.append(f"| {curve.value:,} | {figures} | {losses or 'not run yet'} |")
    model = f"{part.model}\n\n" if part.model else ""
    return f"## {part.title}\n\n{model}" + "\n".join([*lines, ""])


def _draw(drawn: Sequence[Part], store: Store, file: pathlib.Path) -> None:
    """Draws a panel per part: a line per curve, and a star at its best rate."""
    pyplot = plots.svg_pyplot("transfer")
    rows = -(-len(drawn) // COLUMNS)
    figure, grid = pyplot.subplots(
        rows, COLUMNS, figsize=(10, 3.6 * rows), layout="constrained", sharex=True, squeeze=False
    )
    for axes in grid.flat[len(drawn) :]:
        axes.set_visible(False)
    for axes, part in zip(grid.flat, drawn, strict=False):
        axes.set_title(part.title, fontsize="medium")
        for color, curve in zip(COLORS, part.curves, strict=False):
            if not (points := curve.points(store)):
                continue
            axes.plot(list(points), list(points.values()), "o-", color=color, label=f"{part.setting} {curve.value:,}")
            if best := parabola(points):
                axes.plot(best.best_rate, best.lowest, "*", color=color, markersize=13)
        axes.set_xscale("log", base=2)
        axes.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("learning rate, relative to the weights")
        axes.grid(color=plots.GRID)
        axes.legend(fontsize="small")
    for axes in grid[:, 0]:
        axes.set_ylabel("validation loss (nats per token)")
    plots.save_svg(figure, file)
    pyplot.close(figure)
