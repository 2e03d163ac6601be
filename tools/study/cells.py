"""The cells of the study: every run is the base cell with a few things changed, and equal cells are one run."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from tools.study.settings import StudyConfig
from tools.sweep.runner import Job

OPTIMIZERS = {  # name: (gin surface, its settings, the small grid of learning rates)
    "adafactor": ("Adafactor", {"scale_by_parameter": False}, (5e-4, 1e-3, 2e-3, 4e-3)),
    "frozen": ("FrozenAdafactor", {"scale_by_parameter": False}, (2.5e-4, 5e-4, 1e-3, 2e-3)),
    "scaled": ("Adafactor", {"scale_by_parameter": True}, (2e-2, 4e-2, 8e-2, 1.6e-1)),
    "adamw": ("AdamW", {}, (1e-3, 2e-3, 4e-3, 8e-3)),
}
ALGPT2 = "algpt2"  # its grid's name: ALGPT2 at E = ALGPT2_EMBEDDING with Adafactor
ALGPT2_RATES, ALGPT2_EMBEDDING = (5e-4, 1e-3, 2e-3, 4e-3), 64
CORPORA = ("wikitext", "cpython")
VOCABULARY = 4096
LAYERS, HEADS, WIDTH = 3, 3, 192


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One run. An ``embedding`` of 0 is ALGPT2 without factorization; GPT-2 has no such setting."""

    corpus: str = "wikitext"
    packing: str = "contiguous"
    model: str = "gpt2"
    embedding: int = 0
    optimizer: str = "adafactor"
    rate: float = 0.0
    batch: int = 0
    context: int = 0
    dropout: float = 0.0
    seed: int = 0

    @property
    def name(self) -> str:
        """The name of its run directory: all settings that distinguish it from other cells."""
        model = self.model if self.model == "gpt2" else f"algpt2-e{self.embedding or 'none'}"
        return (
            f"{self.corpus}-{self.packing}_{model}_{self.optimizer}-{self.rate:g}"
            f"_b{self.batch}_c{self.context}_d{self.dropout:g}_s{self.seed}"
        )

    @property
    def data(self) -> str:
        """The name of its data set."""
        return f"{self.corpus}-{self.packing}"

    def job(self, study: StudyConfig, data: pathlib.Path) -> Job:
        """Returns this cell as the sweep's runner runs it, given the folder of the data sets."""
        arguments = (*self.parameters(study), f"--data={data / self.data}")
        return Job(key=self.name, label=self.name, overrides=self.overrides(study), arguments=arguments)

    def parameters(self, study: StudyConfig) -> list[str]:
        """Returns the overrides as flags."""
        return [f"--gin_param={name}={value!r}" for name, value in self.overrides(study).items()]

    def overrides(self, study: StudyConfig) -> dict[str, Any]:
        """Returns the settings that make ``gin/study.gin`` this cell."""
        surface, settings, _ = OPTIMIZERS[self.optimizer]
        steps = study.tokens // (self.batch * self.context)
        optimizer = {"FrozenAdafactor": "frozen_adafactor"}.get(surface, surface.lower())
        model = {"gpt2": "GPT2", "algpt2": "ALGPT2"}[self.model]
        values = {
            "train.model": self.model,
            "train.optimizer": optimizer,
            "train.steps": steps,
            "train.global_batch": self.batch,
            "train.microbatch": self.batch,
            "train.seed": self.seed,
            f"{model}.layers": LAYERS,
            f"{model}.heads": HEADS,
            f"{model}.width": WIDTH,
            f"{model}.context": self.context,
            f"{model}.dropout": self.dropout,
            f"{surface}.learning_rate": self.rate,
            **{f"{surface}.{key}": value for key, value in settings.items()},
        }
        if self.model == "algpt2":
            values["ALGPT2.embedding"] = self.embedding or None
        return values


def grid(study: StudyConfig) -> dict[str, list[Cell]]:
    """Returns the cells from which each optimizer's and ALGPT2's learning rate is chosen, one seed each."""
    base = Cell(batch=study.batch, context=study.context)
    algpt2 = replace(base, model="algpt2", embedding=ALGPT2_EMBEDDING)
    optimizers = {
        name: [replace(base, optimizer=name, rate=rate) for rate in rates] for name, (_, _, rates) in OPTIMIZERS.items()
    }
    return {**optimizers, ALGPT2: [replace(algpt2, rate=rate) for rate in ALGPT2_RATES]}


Rows = dict[str, list[Cell]]  # label: one cell per seed


def parts(study: StudyConfig, best: Mapping[str, float]) -> dict[str, Rows]:
    """Returns the rows of each part of the study, given the best rate of each grid."""
    base = Cell(batch=study.batch, context=study.context, rate=best["adafactor"])

    def seeds(cell: Cell) -> list[Cell]:
        return [replace(cell, seed=seed) for seed in range(study.seeds)]

    def over(labels: Mapping[str, Cell]) -> Rows:
        return {label: seeds(cell) for label, cell in labels.items()}

    def everywhere(labels: Callable[[Cell], dict[str, Cell]]) -> Rows:
        return over(
            {
                f"{corpus}: {label}": cell
                for corpus in CORPORA
                for label, cell in labels(replace(base, corpus=corpus)).items()
            }
        )

    def optimizers(cell: Cell) -> dict[str, Cell]:
        return {name: replace(cell, optimizer=name, rate=best[name]) for name in OPTIMIZERS}

    def embeddings(cell: Cell) -> dict[str, Cell]:
        factorized = {
            f"ALGPT2, E = {width or 'none'}": replace(cell, model="algpt2", embedding=width, rate=best[ALGPT2])
            for width in (32, 64, 128, 0)
        }
        return {"GPT-2": cell, **factorized}

    contexts = [study.context // 2, study.context, 2 * study.context]
    batches = [study.batch // 2, study.batch, 2 * study.batch]
    rates = [base.rate / 2, base.rate, 2 * base.rate]
    algpt2 = replace(base, model="algpt2", embedding=ALGPT2_EMBEDDING, rate=best[ALGPT2])
    return {
        "optimizers": everywhere(optimizers),
        "embeddings": everywhere(embeddings),
        "contexts": over({str(c): replace(base, context=c, batch=study.batch * study.context // c) for c in contexts}),
        "batches": over({f"{b} × {r:g}": replace(base, batch=b, rate=r) for b in batches for r in rates}),
        "dropout": over(
            {
                f"{name}, dropout {rate:g}": replace(cell, dropout=rate)
                for name, cell in (("GPT-2", base), (f"ALGPT2, E = {ALGPT2_EMBEDDING}", algpt2))
                for rate in (0.0, 0.1)
            }
        ),
        "packing": over({packing: replace(base, packing=packing) for packing in ("contiguous", "lines")}),
    }
