"""The cells of the study: every run is the base cell with a few changes, and equal cells share a run.

Imports neither TensorFlow nor Keras.
"""

import dataclasses
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tools.study.recipes import (
    ABLATIONS,
    ALGPT2_ABLATIONS,
    ESSENTIAL,
    LARGER_RATES,
    OPTIMIZER_NAMES,
    OPTIMIZERS,
    RECIPES,
)
from tools.sweep.runner import Job

CORPORA = ("cpython", "kernel", "wikitext")
VOCABULARY = 4096
HEAD_WIDTH = 64
LAYERS, WIDTH = 2, 128
LARGER_LAYERS, LARGER_WIDTH = 3, 192
UNCHANGED = "unchanged"  # the ablations' row that the others are compared with
EMBEDDINGS = (24, 88, 0)  # of ALGPT2: a sixth and two thirds of the width, as 128 and 512 in the study of 2020; none


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """The scale of every cell, bound by gin as ``study``, such as ``--gin_param=study.tokens=65536`` for less.

    Attributes:
        tokens: training tokens per cell.
        grid_tokens: tokens of the ablations, and of the cells that choose the base model's learning rates.
        seeds: runs with different seeds, for the cells that our defaults depend on; the others have one.
        batch: sequences per optimizer step of the base cell.
        context: tokens per sequence of the base cell; the contexts part halves and doubles it.
        workers: cells to run in parallel, each in a process with one thread.
    """

    tokens: int = 5_242_880
    grid_tokens: int = 2_048_000
    seeds: int = 3
    batch: int = 16
    context: int = 128
    workers: int = 2

    @property
    def contexts(self) -> list[int]:
        """The contexts to compare."""
        return [self.context // 2, self.context, 2 * self.context]

    def __post_init__(self) -> None:
        for name in ("seeds", "workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: expected at least 1")
        for name in ("batch", "context"):
            if getattr(self, name) < 2 or getattr(self, name) % 2:
                raise ValueError(f"{name} = {getattr(self, name)}: expected an even number, for it is halved")
        step = self.batch * self.context
        for name in ("tokens", "grid_tokens"):
            if getattr(self, name) < 1 or getattr(self, name) % step:
                raise ValueError(f"{name} = {getattr(self, name)}: expected a multiple of batch × context = {step}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One run. An ``embedding`` of 0 is ALGPT2 without factorization; GPT-2 has no such setting."""

    corpus: str = "cpython"
    model: str = "gpt2"
    layers: int = LAYERS
    width: int = WIDTH
    embedding: int = 0
    optimizer: str = "adafactor"  # a name of RECIPES
    rate: float = 0.0
    tokens: int = 0
    batch: int = 0
    context: int = 0
    dropout: float = 0.0
    seed: int = 0

    @property
    def name(self) -> str:
        """The name of its run directory: all settings that distinguish it from other cells."""
        model = self.model if self.model == "gpt2" else f"algpt2-e{self.embedding or 'none'}"
        return (
            f"{self.corpus}_{model}-{self.layers}x{self.width}_{self.optimizer}-{self.rate:g}"
            f"_t{self.tokens}_b{self.batch}_c{self.context}_d{self.dropout:g}_s{self.seed}"
        )

    @property
    def first_rates(self) -> tuple[float, ...]:
        """The initial learning rates of this cell's grid."""
        return LARGER_RATES[self.optimizer] if self.width == LARGER_WIDTH else RECIPES[self.optimizer].rates

    def job(self, data: pathlib.Path) -> Job:
        """Returns this cell as a job for the sweep's runner, given the data sets' folder."""
        arguments = (*self.parameters(), f"--data={data}/{self.corpus}")
        return Job(key=self.name, label=self.name, overrides=self.overrides(), arguments=arguments)

    def parameters(self) -> list[str]:
        """Returns the overrides as flags."""
        return [f"--gin_param={name}={value!r}" for name, value in self.overrides().items()]

    def overrides(self) -> dict[str, Any]:
        """Returns the settings that turn ``gin/study.gin`` into this cell."""
        recipe = RECIPES[self.optimizer]
        surface, steps = recipe.surface, self.tokens // (self.batch * self.context)
        model = {"gpt2": "GPT2", "algpt2": "ALGPT2"}[self.model]
        values = {
            "train.model": self.model,
            "train.optimizer": OPTIMIZER_NAMES.get(surface, surface.lower()),
            "train.steps": steps,
            "train.global_batch": self.batch,
            "train.microbatch": self.batch,
            "train.seed": self.seed,
            f"{model}.layers": self.layers,
            f"{model}.heads": self.width // HEAD_WIDTH,
            f"{model}.width": self.width,
            f"{model}.context": self.context,
            f"{model}.dropout": self.dropout,
            f"{surface}.learning_rate": self.rate,
            **{f"{surface}.{key}": value for key, value in recipe.settings.items()},
            **recipe.run,
        }
        if self.model == "algpt2":
            values["ALGPT2.embedding"] = self.embedding or None
        return values


def grid(study: StudyConfig) -> dict[str, Cell]:
    """Returns a cell of each learning-rate grid: one for each optimizer, model and size."""
    base = Cell(tokens=study.grid_tokens, batch=study.batch, context=study.context)
    algpt2 = replace(base, model="algpt2", embedding=EMBEDDINGS[-1], optimizer="scaled")
    algpt2s = {"algpt2": algpt2, "algpt2_momentum": replace(algpt2, optimizer="momentum")}
    # After few tokens its losses with 0.04 and 0.08 are equal; after many, 0.04 is better by over a tenth of a nat.
    larger = replace(base, layers=LARGER_LAYERS, width=LARGER_WIDTH, tokens=study.tokens)
    largers = {f"larger_{name}": replace(larger, optimizer=name) for name in LARGER_RATES}
    return {**{name: replace(base, optimizer=name) for name in OPTIMIZERS}, **algpt2s, **largers}


Rows = dict[str, list[Cell]]  # label: one cell per seed


def parts(study: StudyConfig, best: Mapping[str, float]) -> dict[str, Rows]:
    """Returns the rows of each part of the study, given the best rate of each grid."""
    base = Cell(tokens=study.tokens, batch=study.batch, context=study.context, optimizer="scaled", rate=best["scaled"])
    algpt2 = replace(base, model="algpt2", rate=best["algpt2"])

    def optimizers(cell: Cell, names: Sequence[str], grids: str = "") -> dict[str, Cell]:
        return {f"{cell.corpus}: {name}": replace(cell, optimizer=name, rate=best[grids + name]) for name in names}

    def dropouts(label: str, cell: Cell) -> dict[str, Cell]:
        return {f"{cell.corpus}: {label}, dropout {rate:g}": replace(cell, dropout=rate) for rate in (0.0, 0.1)}

    def ablations(label: str, cell: Cell, names: Iterable[str]) -> dict[str, Cell]:
        short = replace(cell, tokens=study.grid_tokens)
        changed = {f"{label}: {name}": replace(short, optimizer=name) for name in names}
        return {f"{label}: {UNCHANGED}": short, **changed}

    larger = replace(base, layers=LARGER_LAYERS, width=LARGER_WIDTH, rate=best["larger_scaled"])
    rows = {
        "optimizers": {**optimizers(base, OPTIMIZERS), **optimizers(replace(base, corpus="kernel"), ESSENTIAL)},
        "larger": optimizers(larger, [*LARGER_RATES], "larger_"),
        "embeddings": {
            f"{base.corpus}: GPT-2": base,
            **{
                f"{base.corpus}: ALGPT2, E = {width or 'none'}": replace(algpt2, embedding=width)
                for width in EMBEDDINGS
            },
            f"{base.corpus}: ALGPT2, E = none, momentum": replace(
                algpt2, optimizer="momentum", rate=best["algpt2_momentum"]
            ),
        },
        "contexts": {
            str(context): replace(base, context=context, batch=study.batch * study.context // context)
            for context in study.contexts
        },
        "dropout": {
            **dropouts("GPT-2", base),
            **dropouts("ALGPT2", replace(algpt2, embedding=EMBEDDINGS[-1])),
            **dropouts("GPT-2", replace(base, corpus="wikitext")),
        },
        "ablations": {
            **ablations("GPT-2", base, ABLATIONS),
            **ablations("GPT-2, larger", larger, ABLATIONS),
            **ablations("ALGPT2", replace(algpt2, embedding=EMBEDDINGS[1]), ALGPT2_ABLATIONS),
        },
    }
    return {
        part: {
            label: [replace(cell, seed=seed) for seed in range(study.seeds if _decides(part, cell) else 1)]
            for label, cell in cells.items()
        }
        for part, cells in rows.items()
    }


def _decides(part: str, cell: Cell) -> bool:
    """Returns whether our defaults depend on a row. Frozen Adafactor is a nat above all others: one seed suffices."""
    of_recipe = part in ("larger", "ablations") or (part == "optimizers" and cell.corpus == CORPORA[0])
    return of_recipe and cell.optimizer != "frozen"
