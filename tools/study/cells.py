"""The cells of the study: every run is the base cell with a few things changed, and equal cells are one run.

Imports neither TensorFlow nor Keras.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from tools.sweep.runner import Job


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """An optimizer, its settings, the grid from which its learning rate is chosen, and what it changes of the run."""

    surface: str  # gin's name
    settings: Mapping[str, Any]
    rates: tuple[float, ...]
    run: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # settings of other surfaces


RECIPES = {
    "adafactor": Recipe(surface="Adafactor", settings={"scale_by_parameter": False}, rates=(5e-4, 1e-3, 2e-3, 4e-3)),
    "frozen": Recipe(
        surface="FrozenAdafactor", settings={"scale_by_parameter": False}, rates=(2.5e-4, 5e-4, 1e-3, 2e-3)
    ),
    "scaled": Recipe(surface="Adafactor", settings={"scale_by_parameter": True}, rates=(2e-2, 4e-2, 8e-2, 1.6e-1)),
    "adamw": Recipe(surface="AdamW", settings={}, rates=(1e-3, 2e-3, 4e-3, 8e-3)),
    "ours": Recipe(
        surface="Adafactor", settings={"scale_by_parameter": True, "beta1": 0.9}, rates=(4e-2, 8e-2, 1.6e-1)
    ),
    "by_width": Recipe(
        surface="Adafactor",
        settings={"scale_by_parameter": True, "beta1": 0.9, "base_width": 128},
        rates=(8e-2, 1.6e-1, 3.2e-1),
    ),
    "by_width_plain": Recipe(
        surface="Adafactor", settings={"scale_by_parameter": True, "base_width": 128}, rates=(4e-2, 8e-2, 1.6e-1)
    ),
    "nanogpt": Recipe(
        surface="AdamW",
        settings={"beta1": 0.9, "beta2": 0.95, "weight_decay": 0.1},
        rates=(2e-3, 4e-3, 8e-3),
        run={"train.schedule": "cosine", "train.final_fraction": 0.1},
    ),
    "muon": Recipe(surface="Muon", settings={"adamw_learning_rate": 8e-3}, rates=(1e-2, 2e-2, 4e-2)),
}
OPTIMIZERS = ("adafactor", "frozen", "scaled", "adamw")  # of the study
ALGPT2 = "algpt2"  # its grid's name: ALGPT2 at E = ALGPT2_EMBEDDING with Adafactor
ALGPT2_RATES, ALGPT2_EMBEDDING = (5e-4, 1e-3, 2e-3, 4e-3), 64
CORPORA, PACKINGS = ("wikitext", "cpython"), ("contiguous", "lines")
VOCABULARY = 4096
HEAD_WIDTH = 64
LAYERS, WIDTH = 3, 192
SIZE = f"{LAYERS} layers, {WIDTH // HEAD_WIDTH} heads and width {WIDTH}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """The scale of every cell, bound by gin as ``study``, such as ``--gin_param=study.tokens=65536`` for less.

    Attributes:
        tokens: tokens that a cell trains on.
        seeds: runs of a cell that differ in their seed only; error bars are taken over them.
        batch: sequences per optimizer step of the base cell; the batches part halves and doubles it.
        context: tokens per sequence of the base cell; the contexts part halves and doubles it.
        workers: cells that run side by side, each in a process of one thread.
    """

    tokens: int = 524_288
    seeds: int = 3
    batch: int = 8
    context: int = 256
    workers: int = 2

    @property
    def contexts(self) -> list[int]:
        """The contexts that are compared."""
        return [self.context // 2, self.context, 2 * self.context]

    def __post_init__(self) -> None:
        for name in ("tokens", "seeds", "workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: expected at least 1")
        for name in ("batch", "context"):
            if getattr(self, name) < 2 or getattr(self, name) % 2:
                raise ValueError(f"{name} = {getattr(self, name)}: expected an even number, for it is halved")
        if self.tokens % (2 * self.batch * self.context):
            raise ValueError(
                f"tokens = {self.tokens}: expected a multiple of 2 × batch × context = "
                f"{2 * self.batch * self.context}, the largest step"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One run. An ``embedding`` of 0 is ALGPT2 without factorization; GPT-2 has no such setting."""

    corpus: str = "wikitext"
    packing: str = "contiguous"
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
            f"{self.corpus}-{self.packing}_{model}-{self.layers}x{self.width}_{self.optimizer}-{self.rate:g}"
            f"_t{self.tokens}_b{self.batch}_c{self.context}_d{self.dropout:g}_s{self.seed}"
        )

    def job(self, data: pathlib.Path) -> Job:
        """Returns this cell as the sweep's runner runs it, given the folder of the data sets."""
        arguments = (*self.parameters(), f"--data={data}/{self.corpus}-{self.packing}")
        return Job(key=self.name, label=self.name, overrides=self.overrides(), arguments=arguments)

    def parameters(self) -> list[str]:
        """Returns the overrides as flags."""
        return [f"--gin_param={name}={value!r}" for name, value in self.overrides().items()]

    def overrides(self) -> dict[str, Any]:
        """Returns the settings that make ``gin/study.gin`` this cell."""
        recipe = RECIPES[self.optimizer]
        surface, steps = recipe.surface, self.tokens // (self.batch * self.context)
        optimizer = {"FrozenAdafactor": "frozen_adafactor"}.get(surface, surface.lower())
        model = {"gpt2": "GPT2", "algpt2": "ALGPT2"}[self.model]
        values = {
            "train.model": self.model,
            "train.optimizer": optimizer,
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


def grid(study: StudyConfig) -> dict[str, list[Cell]]:
    """Returns the cells from which each optimizer's and ALGPT2's learning rate is chosen, one seed each."""
    base = Cell(tokens=study.tokens, batch=study.batch, context=study.context)
    algpt2 = replace(base, model="algpt2", embedding=ALGPT2_EMBEDDING)
    optimizers = {
        name: [replace(base, optimizer=name, rate=rate) for rate in RECIPES[name].rates] for name in OPTIMIZERS
    }
    return {**optimizers, ALGPT2: [replace(algpt2, rate=rate) for rate in ALGPT2_RATES]}


Rows = dict[str, list[Cell]]  # label: one cell per seed


def parts(study: StudyConfig, best: Mapping[str, float]) -> dict[str, Rows]:
    """Returns the rows of each part of the study, given the best rate of each grid."""
    base = Cell(tokens=study.tokens, batch=study.batch, context=study.context, rate=best["adafactor"])

    def everywhere(labels: Callable[[Cell], dict[str, Cell]]) -> dict[str, Cell]:
        return {
            f"{corpus}: {label}": cell
            for corpus in CORPORA
            for label, cell in labels(replace(base, corpus=corpus)).items()
        }

    def optimizers(cell: Cell) -> dict[str, Cell]:
        return {name: replace(cell, optimizer=name, rate=best[name]) for name in OPTIMIZERS}

    def embeddings(cell: Cell) -> dict[str, Cell]:
        factorized = {
            f"ALGPT2, E = {width or 'none'}": replace(cell, model="algpt2", embedding=width, rate=best[ALGPT2])
            for width in (32, 64, 128, 0)
        }
        return {"GPT-2": cell, **factorized}

    batches = [study.batch // 2, study.batch, 2 * study.batch]
    rates = [base.rate / 2, base.rate, 2 * base.rate]
    algpt2 = replace(base, model="algpt2", embedding=ALGPT2_EMBEDDING, rate=best[ALGPT2])
    rows = {
        "optimizers": everywhere(optimizers),
        "embeddings": everywhere(embeddings),
        "contexts": {
            str(context): replace(base, context=context, batch=study.batch * study.context // context)
            for context in study.contexts
        },
        "batches": {f"{b} × {r:g}": replace(base, batch=b, rate=r) for b in batches for r in rates},
        "dropout": {
            f"{name}, dropout {rate:g}": replace(cell, dropout=rate)
            for name, cell in (("GPT-2", base), (f"ALGPT2, E = {ALGPT2_EMBEDDING}", algpt2))
            for rate in (0.0, 0.1)
        },
        "packing": {packing: replace(base, packing=packing) for packing in PACKINGS},
    }
    return {
        part: {label: [replace(cell, seed=seed) for seed in range(study.seeds)] for label, cell in cells.items()}
        for part, cells in rows.items()
    }
