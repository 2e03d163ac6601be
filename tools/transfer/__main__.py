"""Measures whether the best learning rate of a narrow model is that of a wide one, and writes the page about it.

    python -m tools.transfer [--output=docs/transfer.md] [--run_dir=runs/transfer] [--norun]

Trains small GPT-2s of several widths at several learning rates, on CPython's documentation and library, with and
without ``Adafactor.base_width``. Losses are stored beside the page, as JSON, and only what is missing there is run: if
nothing is there, an hour and a half on two cores. A killed command goes on. Needs requirements-plots.txt.
"""

import json
import os
import pathlib
import platform
from collections.abc import Iterable
from typing import Any

from absl import flags

from pipeline import cli
from pipeline.data.format import manifest
from pipeline.errors import UserError
from tools import plots
from tools.study.cells import Cell
from tools.study.results import summary_path
from tools.study.running import make_data, run_cells
from tools.transfer import page
from tools.transfer.curves import BASE, Curve, curves

FLAGS = flags.FLAGS


def main() -> int:
    """Runs what is missing, and writes the figures, the page and its picture."""
    output, store = pathlib.Path(FLAGS.output), pathlib.Path(FLAGS.output).with_suffix(".json")
    if output.suffix != ".md" or not output.parent.is_dir():
        raise UserError(f"--output={output}: expected a file NAME.md in a folder that exists")
    plots.svg_pyplot("transfer")  # refuses a missing matplotlib before hours of runs
    stored: dict[str, Any] = json.loads(store.read_text(encoding="utf-8")) if store.is_file() else {}
    folder, missing = pathlib.Path(FLAGS.run_dir), missing_cells(curves(), stored)
    if missing and FLAGS.run:
        measure(folder, missing, stored, store)
    elif missing:
        collect(folder, missing, stored, store)
    page.write(output, stored, len(missing_cells(curves(), stored)))
    print(f"wrote {output}")
    return 0


def missing_cells(all_curves: Iterable[Curve], stored: dict[str, Any]) -> list[Cell]:
    """Returns the cells without a stored loss, the widest first: they take longest, and two run at a time."""
    cells = dict.fromkeys(cell for curve in all_curves for cell in curve.cells)
    left = [cell for cell in cells if cell.name not in stored.get("nats_per_token", {})]
    return sorted(left, key=lambda cell: cell.width, reverse=True)


def measure(folder: pathlib.Path, cells: list[Cell], stored: dict[str, Any], store: pathlib.Path) -> None:
    """Runs the cells and adds their losses to what is stored, those that are done before a signal too.

    Args:
        folder: of the runs; a run that has ended there is not run again.
        cells: the runs.
        stored: the content of ``store``, which is changed.
        store: the JSON file.

    Raises:
        UserError: what is stored was measured on other data.
        WorkFailedError: some runs failed.
    """
    make_data(folder / "data", BASE.corpus, BASE.packing, 2 * BASE.context)
    check_data(folder, stored, store)
    try:
        run_cells(folder, cells, workers=os.cpu_count() or 1)
    finally:
        collect(folder, cells, stored, store)


def collect(folder: pathlib.Path, cells: list[Cell], stored: dict[str, Any], store: pathlib.Path) -> None:
    """Adds the losses of those cells whose runs have ended to what is stored; arguments and errors as ``measure``."""
    done = [cell for cell in cells if summary_path(folder, cell).exists()]
    if done:
        check_data(folder, stored, store)
        stored.setdefault("nats_per_token", {}).update({cell.name: loss(folder, cell) for cell in done})
        store.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def check_data(folder: pathlib.Path, stored: dict[str, Any], store: pathlib.Path) -> None:
    """Notes on which data the runs train; UserError if what is stored was measured on others."""
    data = manifest.load(f"{folder}/data/{BASE.corpus}-{BASE.packing}").corpus.fingerprint
    python = platform.python_version()
    if stored.setdefault("data", data) != data:
        raise UserError(
            f"{store} was measured on the texts of CPython {stored['python']}, which differ from those of {python} in "
            f"{folder}/data: run it with CPython {stored['python']}, or write another page with --output"
        )
    stored.setdefault("python", python)


def loss(folder: pathlib.Path, cell: Cell) -> float:
    """Returns the loss of a finished run over the whole validation part (nats per token)."""
    summary = json.loads(summary_path(folder, cell).read_text(encoding="utf-8"))
    return round(summary["validation"]["nats_per_token"], 5)


def define_flags() -> None:
    """Defines the flags."""
    cli.define_path("output", "docs/transfer.md", "The page to write; its figures stand beside it, as JSON and SVG.")
    cli.define_path("run_dir", "runs/transfer", "The directory of the runs.")
    flags.DEFINE_bool("run", True, "Run what is missing; --norun writes the page from what is done.")


if __name__ == "__main__":
    cli.run(main, define_flags)
