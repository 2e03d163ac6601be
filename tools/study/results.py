"""Figures from a finished cell's run directory, of a row of cells, and of the difference of two rows."""

import json
import math
import pathlib
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from models.config import from_description
from pipeline.report import charts
from tools.study.cells import Cell

# Student's t at 95 %, two-sided, by degrees of freedom. With three seeds, two standard errors prove nothing:
# equal rows differ by that much one time in six.
QUANTILES = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26, 20: 2.09, 60: 2.00}

POINTS = 64  # of a stored curve


@dataclass(frozen=True, kw_only=True)
class Row:
    """The finished seeds of one cell."""

    rate: float
    parameters: int
    flops: float  # model FLOPs per token, forward and backward
    seeds: int  # planned number
    nats: dict[int, float]  # validation loss per token, by seed
    bits: dict[int, float]  # per byte, by seed

    @property
    def mean(self) -> float:
        """Mean loss over the seeds."""
        return statistics.mean(self.nats.values())

    @property
    def deviation(self) -> float:
        """Standard deviation of the loss over the seeds; 0 for a single one."""
        return statistics.stdev(self.nats.values()) if len(self.nats) > 1 else 0.0

    @property
    def perplexity(self) -> float:
        """Perplexity: e to the mean loss."""
        return math.exp(self.mean)


def read(folder: pathlib.Path, cell: Cell) -> dict[str, Any]:
    """Returns a finished cell's figures for the store; a curve only for the first seed."""
    path = summary_path(folder, cell)
    summary, run = _json(path), _json(path.with_name("run.json"))
    figures = {
        "nats_per_token": round(summary["validation"]["nats_per_token"], 5),
        "bits_per_byte": round(summary["validation"]["bits_per_byte"], 5),
        "parameters": summary["parameters"],
        "flops_per_token": from_description(run["model"]).flops_per_token(),
    }
    return figures if cell.seed else figures | {"curve": train_curve(folder, cell)}


def train_curve(folder: pathlib.Path, cell: Cell) -> list[tuple[float, float]]:
    """Returns (tokens, train loss in nats per token) of a cell, as means over stretches; [] if no step is kept."""
    path = summary_path(folder, cell).with_name("metrics.jsonl")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    steps = [json.loads(line) for line in lines]
    curve = [(float(step["tokens"]), float(step["loss"])) for step in steps if {"tokens", "loss"} <= step.keys()]
    return [(round(tokens), round(loss, 4)) for tokens, loss in charts.means(curve, POINTS) or curve]


def _json(path: pathlib.Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@dataclass(frozen=True, kw_only=True)
class Noise:
    """The effect of the seed, over all rows with several seeds."""

    deviation: float  # of a row's loss, in nats per token; infinite while no row has several seeds
    freedom: int  # degrees of freedom

    @classmethod
    def of(cls, rows: Iterable[Row | None]) -> "Noise":
        """Returns the pooled standard deviation of the rows' seeds."""
        several = [[*row.nats.values()] for row in rows if row and len(row.nats) > 1]
        freedom = sum(len(losses) - 1 for losses in several)
        squares = sum((len(losses) - 1) * statistics.variance(losses) for losses in several)
        return cls(deviation=math.sqrt(squares / freedom) if freedom else math.inf, freedom=freedom)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The loss of one row minus another's, seed by seed, in nats per token."""

    by_seed: tuple[float, ...]
    noise: Noise  # for judging a single seed's difference
    planned: int = 1  # seeds

    @property
    def mean(self) -> float:
        """Mean over the seeds that both rows have."""
        return statistics.mean(self.by_seed)

    @property
    def error(self) -> float:
        """Standard error of the mean: over seeds in pairs, or for a single seed from the noise of two rows."""
        count = len(self.by_seed)
        if count > 1:
            return statistics.stdev(self.by_seed) / math.sqrt(count)
        return math.sqrt(2) * self.noise.deviation

    @property
    def is_complete(self) -> bool:
        """True once all planned seeds are there."""
        return len(self.by_seed) >= self.planned

    @property
    def is_decided(self) -> bool:
        """True once all planned seeds are there and can be judged."""
        return self.is_complete and math.isfinite(self.error)

    @property
    def is_clear(self) -> bool:
        """True if Student's t separates the mean from 0 at 95 %."""
        freedom = len(self.by_seed) - 1 or self.noise.freedom
        quantile = QUANTILES[max((known for known in QUANTILES if known <= freedom), default=1)]
        return abs(self.mean) > quantile * self.error

    @property
    def nats(self) -> str:
        """The mean and, if known, its standard error."""
        return f"{self.mean:+.3f}" + (f" ± {self.error:.3f}" if math.isfinite(self.error) else "")

    def __str__(self) -> str:
        return f"{self.nats} nats, perplexity × {math.exp(self.mean):.2f}"


def difference(higher: Row | None, lower: Row | None, noise: Noise) -> Difference | None:
    """Returns the first row's loss minus the second's, or None if they have no common seed."""
    common = sorted({*higher.nats} & {*lower.nats}) if higher and lower else []
    if not common or higher is None or lower is None:
        return None
    by_seed = tuple(higher.nats[seed] - lower.nats[seed] for seed in common)
    return Difference(by_seed=by_seed, noise=noise, planned=min(higher.seeds, lower.seeds))


def summary_path(folder: pathlib.Path, cell: Cell) -> pathlib.Path:
    """The path of a finished cell's result."""
    return folder / "cells" / cell.name / "summary.json"
