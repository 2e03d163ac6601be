r"""Measures whether a narrow model's best learning rate is also a wide model's, and writes the page about it.

    python -m tools.transfer [--output=docs/transfer.md] \
        [--run_dir=runs/transfer] [--norun]

Trains small GPT-2s at several learning rates, on CPython's documentation and library: at several widths, with and
without ``Adafactor.base_width``, at several depths, with larger batches, and on more tokens. Losses are stored beside
the page, as JSON, and only missing ones run: all of them take two and a half hours on two cores. If killed, the same
command resumes. Needs requirements-plots.txt.
"""

import os
import pathlib

from absl import flags

from pipeline import cli
from tools import plots
from tools.study.cells import Cell
from tools.study.running import make_data
from tools.study.store import Store
from tools.transfer import page
from tools.transfer.curves import BASE, parts

FLAGS = flags.FLAGS


def main() -> int:
    """Runs what is missing, and writes the figures, the page and its picture."""
    output = plots.page_of("output")
    store = Store.load(output.with_suffix(".json"))
    folder, planned = pathlib.Path(FLAGS.run_dir), planned_cells()
    if store.missing(planned) and FLAGS.run:
        make_data(folder / "data", BASE.corpus, 2 * BASE.context)
        store.measure(folder, planned, workers=os.cpu_count() or 1)
    else:
        store.collect(folder, planned)
    page.write(output, store, len(store.missing(planned)))
    print(f"wrote {output}")
    return 0


def planned_cells() -> list[Cell]:
    """Returns all cells, the most expensive first: two run at a time, and the last should not run alone for long."""
    cells = dict.fromkeys(cell for part in parts() for curve in part.curves for cell in curve.cells)
    return sorted(cells, key=lambda cell: cell.tokens * cell.layers * cell.width**2, reverse=True)


def define_flags() -> None:
    """Defines the flags."""
    cli.define_path("output", "docs/transfer.md", "The page to write; its figures are beside it, as JSON and SVG.")
    cli.define_path("run_dir", "runs/transfer", "The directory of the runs.")
    flags.DEFINE_bool("run", True, "Run what is missing; --norun writes the page from stored results.")


if __name__ == "__main__":
    cli.run(main, define_flags)
