"""Recipes: the defaults against nanoGPT's AdamW, Muon and the 2020 study's Adafactor, at equal tokens.

Trains a GPT-2 of 2 layers and width 128 at context 128, 16 sequences per step, on 2,048,000 tokens of CPython's
documentation and library. All use our training step, so only the recipe differs. Each recipe's learning rate is tuned
on a grid of factors of 2, one seed each, until the best is not at its edge; then it gets three seeds. *ours* is the
optimizer of gpt2.gin. *nanogpt* is AdamW with betas of 0.9 and 0.95, weight decay 0.1, clipping at 1 and a cosine to a
tenth of the rate. *muon* is our Muon on the matrices with AdamW for the rest. *seed* is Adafactor as the study of 2020
ran it, with its decay frozen by a bug. Losses are nats per token on the whole validation part; the deviation is over
the seeds. *tokens to nanogpt* is the share of the tokens that ours needs, with its whole schedule in that share, to
reach nanoGPT's final loss.

Takes about an hour and a half on two cores. Results stay in runs/recipe: if killed, the same command resumes.
"""

import itertools
import math
import os
import pathlib
from collections.abc import Sequence
from dataclasses import replace

from tools.study.cells import Cell
from tools.study.results import Row
from tools.study.running import make_data
from tools.study.store import Store
from tools.study.tuning import tune

FOLDER = pathlib.Path("runs/recipe")
BASE = Cell(corpus="cpython", layers=2, width=128, context=128, batch=16, tokens=2_048_000)
CONTENDERS = {"ours": "scaled", "nanogpt": "nanogpt", "muon": "muon", "seed": "frozen"}  # figure: name in RECIPES
SEEDS = range(3)
SHARES = (0.5, 0.7)  # of the tokens, for ours


def run(folder: pathlib.Path = FOLDER, base: Cell = BASE) -> dict[str, float]:
    """Runs what is missing, prints a table and returns the figures."""
    make_data(folder / "data", base.corpus, 2 * base.context)
    store = Store.load(folder / "results.json")

    def measure(cells: list[Cell]) -> None:
        store.measure(folder, cells, workers=os.cpu_count() or 1)

    rates = tune(store, {name: replace(base, optimizer=recipe) for name, recipe in CONTENDERS.items()}, measure)
    rows = {name: _seeds(replace(base, optimizer=recipe, rate=rates[name])) for name, recipe in CONTENDERS.items()}
    shorter = {share: _seeds(_shortened(rows["ours"][0], share)) for share in SHARES}
    measure([cell for row in (*rows.values(), *shorter.values()) for cell in row])
    figures: dict[str, float] = {}
    for name, row in rows.items():
        measured = _row(store, row)
        figures |= {f"{name}_nats": measured.mean, f"{name}_deviation": measured.deviation}
        figures[f"{name}_rate"] = measured.rate
        print(f"  {name:<8} {measured.mean:.3f} ± {measured.deviation:.3f} nats per token at {measured.rate:g}")
    curve = {share: _row(store, row).mean for share, row in shorter.items()} | {1.0: figures["ours_nats"]}
    figures["tokens_to_nanogpt"] = share_of_tokens(curve, figures["nanogpt_nats"])
    print(f"  ours reaches nanoGPT's loss with {figures['tokens_to_nanogpt']:.0%} of the tokens")
    return figures


def share_of_tokens(curve: dict[float, float], target: float) -> float:
    """Returns the share of tokens that reaches a loss, interpolated linearly over the share's logarithm.

    Args:
        curve: final loss (nats per token) of complete runs, by their share of the tokens.
        target: the loss to reach.

    Returns:
        The smallest share if it is already below the target, infinity if none is.
    """
    points = sorted(curve.items())
    if points[0][1] <= target:
        return points[0][0]
    for (share, loss), (next_share, next_loss) in itertools.pairwise(points):
        if next_loss <= target:
            part = (loss - target) / (loss - next_loss)
            return math.exp(math.log(share) + part * math.log(next_share / share))
    return math.inf


def _shortened(cell: Cell, share: float) -> Cell:
    steps = round(share * cell.tokens / (cell.batch * cell.context))
    return replace(cell, tokens=steps * cell.batch * cell.context)


def _seeds(cell: Cell) -> list[Cell]:
    return [replace(cell, seed=seed) for seed in SEEDS]


def _row(store: Store, cells: Sequence[Cell]) -> Row:
    row = store.row(cells)
    assert row is not None, "it was measured, or that has raised"
    return row
