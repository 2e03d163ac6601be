"""Writes docs/transfer.md and its picture from the stored losses; no figure in them comes from anywhere else."""

import pathlib
from collections.abc import Iterable, Sequence

from pipeline.errors import UserError
from tools import plots
from tools.study.cells import VOCABULARY
from tools.study.store import Store
from tools.transfer.curves import BASE, WITH, WITHOUT, Curve, Parabola, curves, parabola

COLORS = ("#3d85c6", "#e08214", "#4d9221", "#c51b7d", "#8073ac")  # readable on white and on black
TICKS = (0.04, 0.08, 0.16, 0.32)
HEAD = """# The learning rate of a wider model

Written by `python -m tools.transfer`; nothing here is typed by hand.

A learning rate is cheap to choose for a narrow model. Is it right for a wide one? With parameter scaling, Adafactor
changes the matrices of a block in proportion to their initial size, which is the same at every width, and what a layer
computes from more inputs changes by more. The rule: with `Adafactor.base_width = {width}`, the rate of these matrices
is multiplied by sqrt({width} / width), as if they began at 1 / sqrt(inputs). Tables, norms and biases keep the rate.

GPT-2 of {layers} layers, heads of width 64 and a vocabulary of {vocabulary:,}; {batch} sequences of {context} tokens a
step, {tokens:,} tokens of the documentation and library of CPython {python}; the optimizer of `quickstart.gin`,
Adafactor with momentum (`beta1 = 0.9`), a linear schedule with a tenth of warm-up, one seed. Losses are over the whole
validation part, in nats per token. The best rate is where a parabola through the three lowest losses, over the
rate's logarithm, is lowest. *Lost* is by how much the best rate of width {width} ends above a width's own best, by that
parabola.

"""
NOT_MEASURED = """## Not measured

Widths above 512, other depths, batches and numbers of steps, ALGPT2, more than one seed, and any run on a pod. More
steps want a lower rate (the comment in `gpt2.gin` has figures), and 90,000 steps of 524,288 tokens are far outside of
what was measured here.
"""


def write(output: pathlib.Path, store: Store, missing: int) -> None:
    """Writes the page and its picture beside it; UserError if the losses do not show the base's best rate.

    Args:
        output: the page.
        store: the results.
        missing: runs that have no loss yet, of which the page says so.
    """
    all_curves = curves()
    by_part = {curve.part: [other for other in all_curves if other.part == curve.part] for curve in all_curves}
    base = next(parabola(curve.points(store)) for curve in by_part[WITH] if curve.width == BASE.width)
    if base is None:
        raise UserError(f"{output}: width {BASE.width} has no best rate between its rates yet, to compare with")
    head = HEAD.format(
        width=BASE.width, layers=BASE.layers, vocabulary=VOCABULARY, batch=BASE.batch, context=BASE.context,
        tokens=BASE.tokens, python=store.content["python"],
    )  # fmt: skip
    picture = output.with_suffix(".svg")
    text = [f"**{missing} runs are missing; `python -m tools.transfer` goes on with them.**\n"] if missing else []
    text.append(f"![Loss over the learning rate, a line for each width]({picture.name})\n")
    text += [f"{_verdict(by_part[part], store, base)}\n" for part in (WITHOUT, WITH)]
    text += [f"## {part}\n\n{_table(of_part, store, base)}" for part, of_part in by_part.items()]
    _draw([by_part[WITHOUT], by_part[WITH]], store, picture)
    output.write_text(head + "\n".join([*text, NOT_MEASURED]), encoding="utf-8")


def _verdict(part: Sequence[Curve], store: Store, base: Parabola) -> str:
    widest = max(part, key=lambda curve: curve.width)
    best = parabola(widest.points(store))
    if not best:
        return f"{part[0].part}, the best rate of width {widest.width} is not known: it takes three rates around it."
    times, lost = best.best_rate / base.best_rate, best.lost_at(base.best_rate)
    return (
        f"{part[0].part}, the best rate of width {widest.width} is {times:.2f} times that of width {BASE.width}, which "
        f"costs {lost:.3f} nats per token there."
    )


def _table(part: Iterable[Curve], store: Store, base: Parabola) -> str:
    lines = ["| width | best rate | loss there | lost | loss at each rate |", "|---|---|---|---|---|"]
    for curve in part:
        points = curve.points(store)
        best = parabola(points)
        figures = "not between those run | — | —"
        if best:
            figures = f"{best.best_rate:.3f} | {best.lowest:.3f} | {best.lost_at(base.best_rate):.3f}"
        losses = ", ".join(f"{rate:g}: {loss:.3f}" for rate, loss in points.items())
        lines.append(f"| {curve.width} | {figures} | {losses or 'not run yet'} |")
    return "\n".join([*lines, ""])


def _draw(panels: Sequence[Sequence[Curve]], store: Store, file: pathlib.Path) -> None:
    """Draws a panel for each part: a line for each curve, and a star at its best rate."""
    pyplot = plots.svg_pyplot("transfer")
    figure, both = pyplot.subplots(1, 2, figsize=(9, 4), layout="constrained", sharex=True, sharey=True)
    widths = sorted({curve.width for part in panels for curve in part})
    for axes, part in zip(both, panels, strict=True):
        axes.set_title(part[0].part)
        for curve in part:
            points, color = curve.points(store), COLORS[widths.index(curve.width)]
            axes.plot(list(points), list(points.values()), "o-", color=color, label=f"width {curve.width}")
            if best := parabola(points):
                axes.plot(best.best_rate, best.lowest, "*", color=color, markersize=13)
        axes.set_xscale("log", base=2)
        axes.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
        axes.set_xlabel("learning rate, relative to the weights")
        axes.grid(color=plots.GRID)
        axes.legend(fontsize="small")
    both[0].set_ylabel("validation loss (nats per token)")
    plots.save_svg(figure, file)
    pyplot.close(figure)
