"""gin: which surfaces can be configured, where files are looked up, and where each value came from.

Every surface is a frozen dataclass in a module that imports neither TensorFlow nor Keras, so that a dry run or a
mistyped name takes milliseconds. Statements are read with gin's own parser, one by one, so that an error can name the
file and the line, and every value's origin can be printed.
"""

import copy
import dataclasses
import importlib.util  # gin reads importlib.util without importing it
import pathlib
import re
import typing
from typing import Any, TypeVar

import gin
from gin import config_parser

from models.config import ALGPT2Config, GPT2Config
from pipeline import paths, statements, storage, texts, values
from pipeline.config.train_config import TrainConfig
from pipeline.data.format.settings import ShardConfig
from pipeline.devices.slices import Slice
from pipeline.errors import UserError, nearest
from pipeline.optimizers.config import AdafactorConfig, AdamWConfig, SGDConfig

ROOT = pathlib.Path(__file__).resolve().parents[2] / "gin"
SURFACES: dict[str, type] = {
    "train": TrainConfig,
    "GPT2": GPT2Config,
    "ALGPT2": ALGPT2Config,
    "Adafactor": AdafactorConfig,
    "AdamW": AdamWConfig,
    "SGD": SGDConfig,
    "shard": ShardConfig,
    "slice": Slice,
}
PATHS = ("train.pretrained", "shard.tokenizer")  # settings that name a file or a directory
MODELS = {"gpt2": "GPT2", "algpt2": "ALGPT2"}
OPTIMIZERS = {"adafactor": "Adafactor", "adamw": "AdamW", "sgd": "SGD"}


def register(name: str, surface: type) -> None:
    """Adds a surface that gin can bind, for a tool with its own settings."""
    SURFACES[name] = surface
    gin.external_configurable(surface, name=name)


for _name, _surface in list(SURFACES.items()):
    register(_name, _surface)
assert importlib.util

ON_COMMAND_LINE = "--gin_param="  # how the origin of such a binding begins

_origins: dict[tuple[str, str], str] = {}
_macros: dict[str, str] = {}  # the origin of each NAME = value
_macros_used: set[str] = set()
_choices: dict[str, list[Any]] = {}  # each setting of ``train``: all values that it was given, in order
T = TypeVar("T")


def load(files: typing.Sequence[str], parameters: typing.Sequence[str] = ()) -> None:
    """Replaces the whole configuration with that of ``files``, then of ``parameters`` (``name.parameter=value``).

    Raises:
        UserError: a file, name or parameter that does not exist, a value that cannot be read, a parameter that one file
            sets twice, or a macro that nothing uses.
    """
    gin.clear_config()
    for state in (_origins, _macros, _macros_used, _choices):
        state.clear()
    for file in files:
        _read_file(_find(file, "--gin_file"), ())
    for parameter in parameters:
        _read_statements(_quoted(parameter), ON_COMMAND_LINE + parameter, ())
    for macro, origin in _macros.items():
        if macro not in _macros_used:
            raise UserError(
                f"{origin}: no value uses %{macro}{nearest(macro, _settings())}; write name.parameter = value"
            )


def get(surface: type[T]) -> T:
    """Returns the configured instance of ``surface``; UserError lists all values that are required and missing."""
    name = _name_of(surface)
    missing = [
        f"{name}.{field.name}"
        for field in dataclasses.fields(typing.cast(Any, surface))
        if field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
        and (name, field.name) not in _origins
    ]
    if missing:
        raise UserError(f"no value for {', '.join(missing)}: set it in a gin file or with --gin_param={missing[0]}=…")
    try:
        return surface(**{parameter: value for parameter, (value, _) in bound(surface).items()})
    except ValueError as error:
        raise UserError(f"{name}: {error}") from None


def bound(surface: type) -> dict[str, tuple[Any, str]]:
    """Returns (value, origin) of each bound parameter of ``surface``; UserError for a value of the wrong type."""
    name, hints = _name_of(surface), typing.get_type_hints(surface)
    bindings = {}
    for (owner, parameter), origin in list(_origins.items()):
        if owner == name:
            where = f"{origin}: {name}.{parameter}"
            value = values.checked(where, _resolved(name, parameter), hints[parameter])
            bindings[parameter] = (_path(where, value) if f"{name}.{parameter}" in PATHS else value), origin
    return bindings


def _path(where: str, value: Any) -> Any:
    """Returns the path that gin binds, as ``paths.checked`` does; UserError for an invalid one."""
    try:
        return None if value is None else paths.checked(value)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def bind(surface: type, parameter: str, value: Any, origin: str) -> None:
    """Binds a value that does not come from a gin file, such as one from a trained model's description."""
    name = _name_of(surface)
    gin.bind_parameter(f"{name}.{parameter}", value)
    _origins[name, parameter] = origin


def chosen(kind: dict[str, str], name: str, what: str) -> Any:
    """Returns the configuration that a name such as ``'algpt2'`` chooses among MODELS or OPTIMIZERS."""
    if name not in kind:
        raise UserError(f"{what} = {name!r}: expected one of {', '.join(sorted(kind))}{nearest(name, kind)}")
    return get(SURFACES[kind[name]])


def reject_unused_overrides(*used: type) -> None:
    """Raises UserError for a binding of a surface that the command does not read; ``used`` are those that it reads.

    A file's settings for a model or optimizer that was not chosen are allowed where they were meant: where the files
    chose that one before a later line chose another (gin/gpt2.gin sets Adafactor for runs that choose no other
    optimizer), or where the choice is left to the command line.
    """
    names = [_name_of(surface) for surface in used]
    for (owner, parameter), origin in _origins.items():
        if owner in names or (TrainConfig in used and not origin.startswith(ON_COMMAND_LINE) and _was_chosen(owner)):
            continue
        near = nearest(f"{owner}.{parameter}", {f"{name}.{parameter}" for name in names}.intersection(_settings()))
        raise UserError(
            f"{origin}: {owner}.{parameter} has no effect here: {owner} is not used, but {', '.join(names)}{near}"
        )


def _was_chosen(owner: str) -> bool:
    """Whether the files chose a model or an optimizer at some point, or leave the choice to the command line."""
    for parameter, kind in (("model", MODELS), ("optimizer", OPTIMIZERS)):
        if owner in kind.values():
            by_hand = _origins.get(("train", parameter), "").startswith(ON_COMMAND_LINE)
            names = _choices.get(parameter, [])
            return by_hand or any(not isinstance(name, str) or kind.get(name) == owner for name in names)
    return False


def _settings() -> list[str]:
    """Returns every name.parameter that exists."""
    return [
        f"{name}.{field.name}"
        for name, kind in SURFACES.items()
        for field in dataclasses.fields(typing.cast(Any, kind))
    ]


def provenance(*configurations: Any) -> str:
    """Returns ``name.parameter = value  # origin`` for every field of the configurations, as readable gin text."""
    blocks = []
    for configuration in configurations:
        name = _name_of(type(configuration))
        rows = [
            (f"{name}.{key.name} = {getattr(configuration, key.name)!r}", _origins.get((name, key.name), "default"))
            for key in dataclasses.fields(configuration)
        ]
        width = min(60, max(len(row) for row, _ in rows))
        blocks.append("\n".join(f"{row:<{width}}  # {origin}" for row, origin in rows))
    return "\n\n".join(blocks) + "\n"


def _name_of(surface: type) -> str:
    return next(name for name, registered in SURFACES.items() if registered is surface)


def _find(file: str, asked_by: str) -> pathlib.Path:
    """Looks a gin file up as given, then under gin/."""
    file = _path(asked_by, file)
    for path in (pathlib.Path(file), ROOT / file):
        if storage.size(str(path)) is not None:
            return path
    files = [str(path.relative_to(ROOT)) for path in ROOT.rglob("*.gin")]
    raise UserError(f"{asked_by}: no gin file {file!r} here or under gin/{nearest(file, files)}")


def _read_file(path: pathlib.Path, includers: tuple[pathlib.Path, ...]) -> None:
    if path in includers:
        raise UserError(f"{_short(path)}: includes itself through {' → '.join(_short(p) for p in includers)}")
    try:
        text = texts.decode(path.read_bytes())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{_short(path)}: cannot be read as UTF-8 text ({error})") from None
    _read_statements(text, _short(path), (*includers, path))


def _read_statements(text: str, source: str, includers: tuple[pathlib.Path, ...]) -> None:
    def handle(statement: Any, origin: str) -> None:
        if isinstance(statement, config_parser.IncludeStatement):
            _read_file(_find(statement.filename, origin), includers)
        elif isinstance(statement, config_parser.BindingStatement):
            _bind(statement, origin)
        elif isinstance(statement, config_parser.ImportStatement):
            raise UserError(f"{origin}: import is not needed here; every surface is known already")

    statements.read(text, source, handle, gin.config.ParserDelegate(), is_file=bool(includers))


def _bind(statement: config_parser.BindingStatement, origin: str) -> None:
    name, parameter = statement.selector, statement.arg_name
    _macros_used.update(re.findall(r"%([\w./]+)", repr(statement.value)))
    if not parameter:  # a macro: NAME = value
        _macros[name] = origin
        gin.bind_parameter((name, "gin.macro", "value"), statement.value)
        return
    if name not in SURFACES:
        raise UserError(f"{origin}: nothing is called {name!r}{nearest(name, SURFACES)}; known: {', '.join(SURFACES)}")
    parameters = [field.name for field in dataclasses.fields(typing.cast(Any, SURFACES[name]))]
    if parameter not in parameters:
        raise UserError(f"{origin}: {name} has no parameter {parameter!r}{nearest(parameter, parameters)}")
    before = _origins.get((name, parameter), "")
    in_one_file = before != origin and before.rpartition(":")[0] == origin.rpartition(":")[0]
    if in_one_file and not origin.startswith(ON_COMMAND_LINE):
        raise UserError(f"{origin}: {name}.{parameter} is set twice, in {before} too: keep one")
    if name == "train":
        _choices.setdefault(parameter, []).append(statement.value)
    bind(SURFACES[name], parameter, statement.value, origin)


def _resolved(name: str, parameter: str) -> Any:
    """Returns the bound value; a macro (``%NAME``) is looked up now, since it may be bound after its use."""
    try:
        return copy.deepcopy(gin.query_parameter(f"{name}.{parameter}"))
    except (ValueError, TypeError) as error:
        raw = gin.query_parameter(f"{name}.{parameter}")
        raise UserError(f"{_origins[name, parameter]}: {name}.{parameter} = {raw}: it has no value") from error


def _quoted(parameter: str) -> str:
    """Lets a shell user write ``train.schedule=cosine``: a bare word, or nothing, becomes a string."""
    name, equals, value = parameter.partition("=")
    bare = re.fullmatch(r"([A-Za-z_/.~][\w./:\-]*)?", value.strip())
    path = name.strip() in PATHS and not value.strip().startswith(("'", '"', "%"))
    if equals and (bare or path) and value.strip() not in ("True", "False", "None"):
        return f"{name}= {value.strip()!r}"
    return parameter


def _short(path: pathlib.Path) -> str:
    return str(path.relative_to(ROOT.parent)) if path.is_relative_to(ROOT.parent) else str(path)
