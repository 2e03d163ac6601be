"""The cells of a sweep: overrides are resolved to a run, whose hash identifies the cell."""

import hashlib
import json
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pipeline.config import attention_path, gin_reader
from pipeline.config.run_config import RunConfig, check_manifest, load_run_config, with_data
from pipeline.config.train_config import RESUMABLE_CHANGES, TrainConfig
from pipeline.data.format.manifest import Manifest
from pipeline.errors import UserError, nearest
from pipeline.values import INT64
from tools.sweep.axes import Overrides
from tools.sweep.runner import Job

MODEL, SEED = "train.model", "train.seed"
USUAL_SIZE = {"gpt2": "gpt2-small", "algpt2": "algpt2-base"}
# Settings that do not affect whether a program fits; cells that differ only in these share a preflight.
NOT_IN_PROGRAM = {"seed", "steps", "schedule", "warmup_steps", "warmup_fraction", "final_fraction", "wandb"}
NOT_IN_PROGRAM |= {"checkpoint_every", "keep_checkpoints", "keep_every", "keep_best", "evaluate_every", "sample_prompt"}
NOT_IN_PROGRAM |= {"learning_rate", "profile_steps", "max_skipped_steps", "pretrained"}
# Settings that may change on resuming, except those whose speed or best weights a sweep may compare.
NOT_IN_KEY = RESUMABLE_CHANGES - {"microbatch", "steps_per_loop", "evaluate_every", "keep_best", "attention"}


@dataclass(frozen=True, kw_only=True)
class Base:
    """The pipeline.train command line that all cells of a sweep share."""

    gin_files: tuple[str, ...]
    gin_params: tuple[str, ...]
    data: str
    tpu: str | None
    manifest: Manifest | None = None  # of ``data``; None if nothing will run, so they need not exist


@dataclass(frozen=True, kw_only=True)
class Cell(Job):
    """One run of a sweep.

    Its key is 12 hexadecimal digits that hash its whole configuration and data: equal runs have equal keys, however
    they are written and wherever the data are. Its overrides exclude those of models and optimizers that it does not
    use.
    """

    run: RunConfig  # checked, with the settings that the data decide
    program: str  # hash of the settings that the compiler sees


def shown(value: Any) -> str:
    """Formats a value as a person would."""
    return value if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)


def resolve(base: Base, combinations: Iterable[Overrides]) -> list[Cell]:
    """Returns a sweep's distinct cells, after checking each as pipeline.train checks a run.

    A cell omits overrides of models and optimizers that it does not use.

    Raises:
        UserError: a cell is wrong, or no cell uses an override.
    """
    cells: dict[str, Cell] = {}
    asked = dict.fromkeys(_name(param) for param in base.gin_params)
    used: set[str] = set()
    same: set[str] = set()  # settings in which equal cells differ
    before: _Resolved | None = None
    for overrides in combinations:
        asked |= dict.fromkeys(overrides)
        resolved = (before and before.with_seed_of(overrides)) or _resolve(base, overrides)
        before = resolved
        used |= {*resolved.overrides, *(_name(param) for param in resolved.params)}
        cell = _cell(base, resolved)
        first = cells.setdefault(cell.key, cell)
        for name in NOT_IN_KEY:
            if name in (values := _by_setting(cell)) and values[name] != _by_setting(first).get(name):
                same.add(name)
    if same:
        print(
            f"note: cells that differ only in {' and '.join(sorted(same))} are one run, which takes the first value: "
            "a run may change it when it resumes",
            file=sys.stderr,
        )
    for name in asked:
        if name not in used:
            raise UserError(f"no cell uses {name}: the models and optimizers of the sweep are others")
    return list(cells.values())


def _by_setting(cell: Cell) -> dict[str, Any]:
    """Returns a cell's overrides by the setting's name alone, such as ``slots``."""
    return {name.rpartition(".")[2]: value for name, value in cell.overrides.items()}


@dataclass(frozen=True, kw_only=True)
class _Resolved:
    """A checked cell: ``asked`` are the overrides from the sweep, ``overrides`` those that it uses."""

    asked: Overrides
    files: list[str]
    params: list[str]
    overrides: Overrides
    run: RunConfig

    def with_seed_of(self, asked: Overrides) -> "_Resolved | None":
        """Returns the cell of ``asked`` if only its seed differs, so it needs no further check; otherwise None."""
        seed = asked.get(SEED)
        if type(seed) is not int or abs(seed) > INT64 or SEED not in self.asked or asked != self.asked | {SEED: seed}:
            return None
        run = replace(self.run, settings=replace(self.run.settings, seed=seed))
        return replace(self, asked=asked, overrides=self.overrides | {SEED: seed}, run=run)


def _resolve(base: Base, asked: Overrides) -> _Resolved:
    for name in asked:
        if name.startswith("slice."):
            raise UserError(f"{name} is the same for all cells; expected --tpu, a gin file or --gin_param={name}=…")
    files, overrides = _sized(base, asked)
    unused = _unused(files, base.gin_params, overrides)
    overrides = {name: value for name, value in overrides.items() if name.partition(".")[0] not in unused}
    params = [param for param in base.gin_params if _name(param).partition(".")[0] not in unused]
    run = load_run_config(files, [*params, *_parameters(overrides)], base.tpu)
    attention_path.choose(run.settings, run.model, run.target.slice, elsewhere=base.manifest is None)
    if base.manifest:
        check_manifest(base.data, base.manifest, run)
        run = with_data(run, base.manifest)
    return _Resolved(asked=asked, files=files, params=params, overrides=overrides, run=run)


def _cell(base: Base, resolved: _Resolved) -> Cell:
    parameters = [*resolved.params, *_parameters(resolved.overrides)]
    arguments = [f"--gin_file={file}" for file in resolved.files] + [f"--gin_param={value}" for value in parameters]
    known_by = _described(resolved.run, NOT_IN_KEY) | {"data": _identity(base.manifest)}
    if known_by["train"]["attention"] == "auto":
        del known_by["train"]["attention"]  # so that sweeps from before the setting resume
    return Cell(
        key=_hash(known_by),
        label="  ".join(f"{name}={shown(value)}" for name, value in resolved.overrides.items()) or "(no overrides)",
        overrides=resolved.overrides,
        arguments=tuple(arguments),
        run=resolved.run,
        program=_hash(_described(resolved.run, NOT_IN_PROGRAM)),
    )


def _identity(data: Manifest | None) -> dict[str, Any]:
    """Returns the properties that identify a data set, wherever it is."""
    if data is None:
        return {}
    tokenizer = {"fingerprint": data.tokenizer.fingerprint, "end_of_text": data.tokenizer.end_of_text}
    return {"corpus": data.corpus.fingerprint, "tokenizer": tokenizer, "settings": dict(data.settings)}


def _sized(base: Base, overrides: Overrides) -> tuple[list[str], Overrides]:
    """Returns the gin files, plus the model's size file if the sweep names a size, or a model without one."""
    files, model = list(base.gin_files), overrides.get(MODEL)
    sizes = sorted(path.stem for path in (gin_reader.ROOT / "models").glob("*.gin"))
    if model is None:
        return files, overrides
    if model in gin_reader.MODELS:
        if gin_reader.load(files, base.gin_params).bound(gin_reader.MODELS[model]):
            return files, overrides
        return [*files, f"models/{USUAL_SIZE[model]}.gin"], overrides
    if model not in sizes:
        choices = [*gin_reader.MODELS, *sizes]
        raise UserError(f"{MODEL} = {model!r}: expected some of {', '.join(choices)}{nearest(str(model), choices)}")
    return [*files, f"models/{model}.gin"], overrides


def _name(parameter: str) -> str:
    """Returns the setting that ``name.parameter=value`` sets."""
    return parameter.partition("=")[0].strip()


def _unused(files: Sequence[str], params: Sequence[str], overrides: Overrides) -> set[str]:
    """Returns the models and optimizers that a cell does not use."""
    of_run = {name: value for name, value in overrides.items() if name.startswith("train.")}
    configuration = gin_reader.load(files, [*params, *_parameters(of_run)])
    settings = configuration.get(TrainConfig)
    kinds = {**gin_reader.MODELS, **gin_reader.OPTIMIZERS}.items()
    return {configuration.name_of(kind) for name, kind in kinds if name not in (settings.model, settings.optimizer)}


def _parameters(overrides: Overrides) -> list[str]:
    """Returns the overrides as gin parameters; a model's size is a gin file instead."""
    models = gin_reader.MODELS
    return [f"{name}={value!r}" for name, value in overrides.items() if name != MODEL or str(value) in models]


def _described(run: RunConfig, without: Collection[str]) -> dict[str, dict[str, Any]]:
    """Returns every setting of a run by part, except those with some names."""
    parts: dict[str, Any] = {"train": run.settings, "model": run.model, "optimizer": run.optimizer}
    return {
        part: {"kind": type(values).__name__}
        | {name: value for name, value in asdict(values).items() if name not in without}
        for part, values in parts.items()
    }


def _hash(document: Any) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:12]
