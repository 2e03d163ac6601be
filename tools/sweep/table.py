"""The results of a sweep: a CSV with one line per cell, and a table of means over the seeds, best first."""

import csv
import io
import math
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from tools.sweep.cells import Cell, shown
from tools.sweep.ledger import DONE, Entry

SEED = "train.seed"
FIGURES = ("validation", "perplexity", "train_loss", "steps", "tokens", "parameters", "tokens_per_second", "seconds")


def rows(cells: Iterable[Cell], entries: Mapping[str, Entry]) -> list[dict[str, Any]]:
    """Returns one row per cell, given or in the ledger, ordered by overrides."""
    merged = {key: dict(entry) for key, entry in entries.items()}
    for cell in cells:
        merged.setdefault(cell.key, {"overrides": cell.overrides, "state": "waiting"})
    unordered = [
        {"cell": key, "overrides": entry["overrides"], "state": entry["state"], "attempts": entry.get("attempt", 0)}
        | {figure: entry.get("result", {}).get(figure) for figure in FIGURES}
        | {"reason": entry.get("reason", "")}
        for key, entry in merged.items()
    ]
    return sorted(unordered, key=lambda row: [(name, str(value)) for name, value in row["overrides"].items()])


def names_of(table_rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Returns every override that some row has, in order of first appearance."""
    return list(dict.fromkeys(name for row in table_rows for name in row["overrides"]))


def as_csv(table_rows: list[dict[str, Any]]) -> str:
    """Returns the rows as CSV: the cell's key, one column per override, state, attempts, figures, reason."""
    names = names_of(table_rows)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["cell", *names, "state", "attempts", *FIGURES, "reason"])
    for row in table_rows:
        overrides = [shown(row["overrides"].get(name, "")) for name in names]
        figures = ["" if row[figure] is None else row[figure] for figure in FIGURES]
        writer.writerow([row["cell"], *overrides, row["state"], row["attempts"], *figures, row["reason"]])
    return text.getvalue()


def as_text(table_rows: list[dict[str, Any]]) -> str:
    """Returns a table of the cells, grouped over seeds, the lowest validation loss first."""
    names = [name for name in names_of(table_rows) if name != SEED]
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in table_rows:
        groups.setdefault(tuple(shown(row["overrides"].get(name, "-")) for name in names), []).append(row)
    ranked = sorted(groups.items(), key=lambda group: _rank(group[1]))
    lines = [[*names, "validation", "train loss", "steps", "seeds", "state"]]
    for values, seeds in ranked:
        done = [row for row in seeds if row["state"] == DONE]
        states = sorted({row["state"] for row in seeds})
        steps = "/".join(sorted({f"{row['steps']:,}" for row in done})) or "-"
        figures = [_mean(done, "validation"), _mean(done, "train_loss"), steps]
        lines.append([*values, *figures, f"{len(done)}/{len(seeds)}", ", ".join(states)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    padded = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(line.rstrip() for line in padded) + "\n"


def _rank(seeds: list[dict[str, Any]]) -> float:
    done = [row for row in seeds if row["state"] == DONE]
    losses = [row["train_loss"] if row["validation"] is None else row["validation"] for row in done]
    mean = statistics.mean(losses) if losses else math.inf
    return mean if not math.isnan(mean) else math.inf


def _mean(done: list[dict[str, Any]], figure: str) -> str:
    """Returns the mean over the seeds, with the standard deviation if there are several."""
    values = [row[figure] for row in done if row[figure] is not None]
    if not values:
        return "-"
    deviation = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{deviation}"
