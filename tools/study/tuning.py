"""The best learning rate of a cell: from a grid of factors of 2 that grows until the best is inside it."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from pipeline.errors import WorkFailedError
from tools.study.cells import Cell, StudyConfig, grid, parts
from tools.study.store import Store

MAX_RATES = 8  # of one grid


def rate_grid(store: Store, cell: Cell) -> list[Cell]:
    """Returns the cells for choosing a rate: the first ones, and further ones while the best is at an edge.

    Args:
        store: the results so far. Run what it lacks before the next call.
        cell: any rate.

    Raises:
        WorkFailedError: the best is still at an edge of ``MAX_RATES`` rates.
    """
    rates = list(cell.first_rates)
    while len(rates) <= MAX_RATES:
        cells = [replace(cell, rate=rate) for rate in rates]
        if store.missing(cells):
            return cells
        best = _best(store, cells)
        if best not in (rates[0], rates[-1]):
            return cells
        rates = [rates[0] / 2, *rates] if best == rates[0] else [*rates, 2 * rates[-1]]
    raise WorkFailedError(f"{cell.optimizer}: no best learning rate from {rates[0]:g} to {rates[-1]:g}")


def chosen(store: Store, grids: Mapping[str, Cell]) -> dict[str, float]:
    """Returns the best learning rate of each finished grid, given any cell of each."""
    tried = {name: rate_grid(store, cell) for name, cell in grids.items()}
    return {name: _best(store, cells) for name, cells in tried.items() if not store.missing(cells)}


def tune(store: Store, grids: Mapping[str, Cell], measure: Callable[[list[Cell]], None]) -> dict[str, float]:
    """Returns the best learning rate of each grid, after measuring what they lack in parallel."""
    while missing := [one for cell in grids.values() for one in store.missing(rate_grid(store, cell))]:
        measure(missing)
    return chosen(store, grids)


def planned(store: Store, study: StudyConfig) -> list[Cell]:
    """Returns all cells of the study known from its grids; those of an unfinished grid have a rate of 0."""
    grids = grid(study)
    best = dict.fromkeys(grids, 0.0) | chosen(store, grids)
    return [*itertools.chain(*(rate_grid(store, cell) for cell in grids.values())), *by_seed(study, best)]


def by_seed(study: StudyConfig, best: Mapping[str, float]) -> list[Cell]:
    """Returns the cells of all parts, with each one's first seed before any second seed."""
    rows = [row for part in parts(study, best).values() for row in part.values()]
    return sorted(dict.fromkeys(itertools.chain(*rows)), key=lambda cell: cell.seed)


def _best(store: Store, cells: Sequence[Cell]) -> float:
    """Returns the rate with the lowest loss among finished cells."""
    return min((store.loss(cell) or math.inf, cell.rate) for cell in cells)[1]
