"""The cells of a sweep: overrides resolved to the run that they describe, whose hash is what a cell is known by."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline import config
from pipeline.configured import Configured, check_data, configured
from pipeline.errors import UserError, nearest
from pipeline.training.settings import TrainConfig
from tools.sweep.axes import Overrides

MODEL = "train.model"
USUAL_SIZE = {"gpt2": "gpt2-small", "algpt2": "algpt2-base"}
# What a program that fits is not affected by, so that cells which differ in these alone share a preflight.
NO_PROGRAM = {"seed", "steps", "schedule", "warmup_steps", "warmup_fraction", "final_fraction", "evaluate_every"}
NO_PROGRAM |= {"checkpoint_every", "keep_checkpoints", "keep_every", "keep_best", "wandb", "sample_prompt"}
NO_PROGRAM |= {"learning_rate", "profile_steps", "max_skipped_steps", "pretrained"}


@dataclass(frozen=True, kw_only=True)
class Base:
    """What all cells of a sweep have in common: what pipeline.train's command line would say."""

    gin_files: tuple[str, ...]
    gin_params: tuple[str, ...]
    data: str
    tpu: str | None


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of a sweep.

    Attributes:
      key: 12 hexadecimal digits of its whole configuration and data; equal runs have equal keys, however they are put.
      overrides: the settings that the sweep gives it, without those of parts that it does not use.
      arguments: gin files and overrides, as flags of pipeline.train and of tools.preflight.
      program: key of what the compiler sees of it.
    """

    key: str
    overrides: Overrides
    arguments: tuple[str, ...]
    program: str

    @property
    def label(self) -> str:
        """Its overrides in a line."""
        return "  ".join(f"{name}={shown(value)}" for name, value in self.overrides.items()) or "(no overrides)"


def shown(value: Any) -> str:
    """Writes a value as a person would."""
    return value if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)


def resolve(base: Base, wanted: Iterable[Overrides]) -> list[Cell]:
    """Returns the cells of a sweep, each once, after every one of them was checked as pipeline.train checks a run.

    An override of a model or an optimizer that a cell does not use is left out of that cell.

    Raises:
      UserError: a cell is wrong, or no cell uses an override.
    """
    cells: dict[str, Cell] = {}
    asked: dict[str, None] = {}
    used: set[str] = set()
    for overrides in wanted:
        asked |= dict.fromkeys(overrides)
        cell = _resolve(base, overrides)
        used |= cell.overrides.keys()
        cells.setdefault(cell.key, cell)
    for name in asked:
        if name not in used:
            raise UserError(f"no cell uses {name}: the models and optimizers of the sweep are others")
    return list(cells.values())


def _resolve(base: Base, overrides: Overrides) -> Cell:
    files, overrides = _sized(base, overrides)
    owners = _owners(files, base.gin_params, overrides)
    overrides = {name: value for name, value in overrides.items() if name.partition(".")[0] in owners}
    parameters = [*base.gin_params, *_parameters(overrides)]
    run = configured(files, parameters, base.tpu)
    if base.data and "://" not in base.data:
        check_data(base.data, run)
    arguments = [f"--gin_file={file}" for file in files] + [f"--gin_param={value}" for value in parameters]
    whole = _described(run) | {"data": base.data}
    program = {
        part: {name: value for name, value in values.items() if name not in NO_PROGRAM}
        for part, values in _described(run).items()
    }
    return Cell(key=_hash(whole), overrides=overrides, arguments=tuple(arguments), program=_hash(program))


def _sized(base: Base, overrides: Overrides) -> tuple[list[str], Overrides]:
    """Returns the gin files with that of the model's size, where the sweep names a size or a model without one."""
    files, model = list(base.gin_files), overrides.get(MODEL)
    sizes = sorted(path.stem for path in (config.ROOT / "models").glob("*.gin"))
    if model is None:
        return files, overrides
    if model in config.MODELS:
        config.load(files, base.gin_params)
        if config.bound(config.SURFACES[config.MODELS[model]]):
            return files, overrides
        return [*files, f"models/{USUAL_SIZE[model]}.gin"], overrides
    if model not in sizes:
        known = [*config.MODELS, *sizes]
        raise UserError(f"{MODEL} = {model!r}: expected some of {', '.join(known)}{nearest(str(model), known)}")
    return [*files, f"models/{model}.gin"], overrides


def _owners(files: Sequence[str], params: Sequence[str], overrides: Overrides) -> set[str]:
    """Returns the names of the parts that a cell uses; a part that is not known is left for gin to refuse."""
    of_run = {name: value for name, value in overrides.items() if name.startswith("train.")}
    config.load(files, [*params, *_parameters(of_run)])
    settings = config.get(TrainConfig)
    parts = {*config.MODELS.values(), *config.OPTIMIZERS.values()}
    chosen = {config.MODELS.get(settings.model), config.OPTIMIZERS.get(settings.optimizer)}
    return {name.partition(".")[0] for name in overrides} - (parts - chosen)


def _parameters(overrides: Overrides) -> list[str]:
    """Returns the overrides as gin has them; a model's size stands in a file of its own."""
    return [f"{name}={value!r}" for name, value in overrides.items() if name != MODEL or str(value) in config.MODELS]


def _described(run: Configured) -> dict[str, dict[str, Any]]:
    parts = {"train": run.settings, "model": run.model, "optimizer": run.optimizer}
    return {name: {"kind": type(part).__name__, **asdict(part)} for name, part in parts.items()}


def _hash(document: Any) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:12]
