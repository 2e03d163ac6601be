"""Finished cells in a committed JSON file: they do not run again, and pages are written from them.

    {"python": "3.11.7",
     "data": {CORPUS: {"fingerprint": …, PART: {"documents": 780, "tokens": 3291105, "utf8_bytes": …}}},
     "cells": {NAME: {"nats_per_token": …, "bits_per_byte": …, "parameters": …, "flops_per_token": …, "curve": …}}}

It keeps any other keys stored in it.
"""

import json
import pathlib
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline import storage
from pipeline.data.format import manifest
from pipeline.errors import UserError
from tools import figure_store
from tools.study import results, running
from tools.study.cells import Cell
from tools.study.results import Row

PART_FIGURES = ("documents", "tokens", "utf8_bytes")  # of each part of the data


@dataclass
class Store:
    """The finished cells of one measurement.

    Args:
        path: the JSON file; written when something is added.
        content: its content, as at the top of this file.
    """

    path: pathlib.Path
    content: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, path: pathlib.Path) -> "Store":
        """Returns a file's store, or an empty one if there is none; UserError if it is broken or read-only."""
        return cls(path, figure_store.load(path))

    @property
    def cells(self) -> dict[str, dict[str, Any]]:
        """Each finished cell's figures, by name."""
        return self.content.setdefault("cells", {})

    def missing(self, cells: Iterable[Cell]) -> list[Cell]:
        """Returns the cells without a result, each once."""
        return [cell for cell in dict.fromkeys(cells) if cell.name not in self.cells]

    def loss(self, cell: Cell) -> float | None:
        """Returns a cell's loss over the validation part (nats per token), or None until it has finished."""
        found = self.cells.get(cell.name)
        return None if found is None else found["nats_per_token"]

    def row(self, cells: Sequence[Cell]) -> Row | None:
        """Returns the figures of one cell per seed, or None until one has finished."""
        found = {cell.seed: self.cells[cell.name] for cell in cells if cell.name in self.cells}
        if not found:
            return None
        some = next(iter(found.values()))
        return Row(
            rate=cells[0].rate,
            seeds=len(cells),
            parameters=some["parameters"],
            flops=some["flops_per_token"],
            nats={seed: figures["nats_per_token"] for seed, figures in found.items()},
            bits={seed: figures["bits_per_byte"] for seed, figures in found.items()},
        )

    def measure(self, folder: pathlib.Path, cells: Iterable[Cell], workers: int) -> None:
        """Runs the missing cells and stores them; after a signal, the finished ones.

        Args:
            folder: of the runs; finished runs there do not run again. Data sets are in ``data``.
            cells: in starting order.
            workers: cells to run in parallel.

        Raises:
            UserError: the stored cells used other texts.
            WorkFailedError: some runs failed.
        """
        missing = self.missing(cells)
        for corpus in dict.fromkeys(cell.corpus for cell in missing):
            self.note_data(folder, corpus)
        try:
            running.run_cells(folder, missing, workers)
        finally:
            self.collect(folder, missing)

    def collect(self, folder: pathlib.Path, cells: Iterable[Cell]) -> int:
        """Stores the cells whose runs have finished, and returns how many; UserError as in ``measure``."""
        done = [cell for cell in self.missing(cells) if results.summary_path(folder, cell).exists()]
        for corpus in dict.fromkeys(cell.corpus for cell in done):
            self.note_data(folder, corpus)
        if done:
            self.cells.update({cell.name: results.read(folder, cell) for cell in done})
            self.write()
        return len(done)

    def note_data(self, folder: pathlib.Path, corpus: str) -> None:
        """Stores which texts the runs train on; UserError if the stored cells used others."""
        data = manifest.load(str(folder / "data" / corpus))
        found: dict[str, Any] = {"fingerprint": data.corpus.fingerprint}
        found |= {name: {key: getattr(part, key) for key in PART_FIGURES} for name, part in data.parts.items()}
        stored, python = (
            self.content.setdefault("data", {}),
            self.content.setdefault("python", platform.python_version()),
        )
        if stored.setdefault(corpus, found)["fingerprint"] != found["fingerprint"]:
            source = f"CPython {python}" if corpus == "cpython" else "the same files"
            raise UserError(
                f"{self.path} was measured on other texts of {corpus!r} than those in {folder}/data: make them from "
                f"{source}, or name another page, which begins anew"
            )

    def write(self) -> None:
        """Writes the file, one line per cell, so that diffs are readable."""
        head = {key: value for key, value in self.content.items() if key != "cells"}
        lines = [f"  {json.dumps(name)}: {json.dumps(figures)}" for name, figures in sorted(self.cells.items())]
        text = json.dumps(head | {"cells": {}}, indent=1).removesuffix("{}\n}")
        storage.replace_bytes((text + "{\n" + ",\n".join(lines) + "\n }\n}\n").encode(), str(self.path))
