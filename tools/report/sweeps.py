"""A report's part on a sweep: its table, its best cells' curves, the loss over each setting that it varied."""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline import storage
from pipeline.errors import UserError
from pipeline.report.charts import AxisFigure
from pipeline.report.read import Run, read
from pipeline.report.tables import table
from tools.sweep.cells import shown
from tools.sweep.ledger import DONE, Ledger
from tools.sweep.table import SEED, names_of, rows

DRAWN = 40  # best cells whose curves are drawn
LINES = 10  # in a figure over a setting; if there would be more, one line shows the lowest losses
LOGARITHMIC_FROM = 8.0  # the highest value over the lowest

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A sweep, read for its report."""

    name: str
    cells: int
    runs: list[Run]  # of the best cells, best first, named by their settings
    figures: list[AxisFigure]
    table: str  # as HTML


def read_sweep(directories: Sequence[str]) -> Sweep | None:
    """Returns the sweep of these directories, or None if they are runs.

    Raises:
        UserError: a sweep is mixed with other directories, or none of its cells has taken a step.
    """
    sweeps = [directory for directory in directories if _entries(directory)]
    if not sweeps:
        return None
    if len(directories) > 1:
        raise UserError(f"--run_dir={sweeps[0]} is a sweep; expected it alone, or runs such as those in its cells/")
    (directory,) = sweeps
    cells = sorted(rows([], _entries(directory)), key=_rank)
    varied = [name for name in names_of(cells) if len({shown(row["overrides"].get(name)) for row in cells}) > 1]
    runs = []
    for row in cells[:DRAWN]:
        path = storage.join(directory, f"cells/{row['cell']}")
        if storage.size(storage.join(path, "metrics.jsonl")):
            runs.append(read(path, _label(row, varied) or row["cell"]))
    if not runs:
        raise UserError(f"--run_dir={directory}: no cell of this sweep has taken a step yet")
    figures = [figure for name in varied if name != SEED and (figure := _over(cells, name, varied))]
    return Sweep(directory, len(cells), runs, figures, _table(cells, len(runs)))


def _entries(directory: str) -> Mapping[str, Any]:
    return Ledger(storage.join(directory, "ledger")).entries()


def _loss(row: Row) -> float:
    """Returns the validation loss, or else the train loss; infinite without either."""
    value = row["train_loss"] if row["validation"] is None else row["validation"]
    return float(value) if row["state"] == DONE and value is not None and math.isfinite(float(value)) else math.inf


def _rank(row: Row) -> tuple[float, str]:
    return _loss(row), row["cell"]


def _label(row: Row, names: Sequence[str]) -> str:
    return ", ".join(f"{name}={shown(row['overrides'][name])}" for name in names if name in row["overrides"])


def _table(cells: Sequence[Row], drawn: int) -> str:
    names = names_of(cells)
    figures = {
        "validation": ".4f",
        "perplexity": ",.2f",
        "train_loss": ".4f",
        "steps": ",",
        "tokens_per_second": ",.0f",
    }
    lines = []
    for row in cells:
        overrides = [shown(row["overrides"].get(name, "-")) for name in names]
        numbers = ["-" if row[figure] is None else format(row[figure], spec) for figure, spec in figures.items()]
        lines.append([*overrides, *numbers, row["state"], row["reason"] or "", row["cell"]])
    head = [*names, *(figure.replace("_", " ") for figure in figures), "state", "reason", "cell"]
    done = sum(row["state"] == DONE for row in cells)
    note = f"<p>{done:,} of {len(cells):,} cells are done; the lowest validation loss is first.</p>"
    if drawn < len(cells):
        note += f'<p class="note">The curves are those of the best {drawn}.</p>'
    return f"<h2>Cells</h2>{note}{table(head, lines)}"


def _over(cells: Sequence[Row], name: str, varied: Sequence[str]) -> AxisFigure | None:
    """Returns the losses over one setting, as means over seeds; None if they do not vary."""
    others = [other for other in varied if other not in (name, SEED)]
    groups: dict[str, dict[Any, list[float]]] = {}
    for row in cells:
        if name in row["overrides"] and math.isfinite(_loss(row)):
            losses = groups.setdefault(_label(row, others), {})
            losses.setdefault(row["overrides"][name], []).append(_loss(row))
    means = {label: {x: statistics.fmean(each) for x, each in losses.items()} for label, losses in groups.items()}
    values = {x for losses in means.values() for x in losses}
    if len(values) < 2:
        return None
    if len(means) > LINES:
        lowest = {x: min(losses[x] for losses in means.values() if x in losses) for x in values}
        means = {"lowest over the other settings": lowest}
    numeric = all(isinstance(x, int | float) and not isinstance(x, bool) for x in values)
    ordered = sorted(values) if numeric else sorted(values, key=shown)
    return AxisFigure(
        name=f"over-{name}",
        title=f"Validation loss over {name}",
        x_label=name,
        y_label="nats per token",
        x=ordered if numeric else [float(place) for place in range(len(ordered))],
        categories=[] if numeric else [shown(x) for x in ordered],
        logarithmic=numeric and ordered[0] > 0 and ordered[-1] / ordered[0] >= LOGARITHMIC_FROM,
        lines=[(label or "loss", [losses.get(x) for x in ordered]) for label, losses in sorted(means.items())],
    )
