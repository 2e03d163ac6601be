"""Reads gin files into a ``Configuration``: the value of each setting, and the file and line that it comes from.

gin's own parser reads the statements one by one, so that an error can name its place. gin's global registry stays
empty, so the configurations of a process are independent of each other. Imports no framework.
"""

import dataclasses
import importlib.util  # gin reads importlib.util without importing it
import pathlib
import re
import tokenize
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from gin import config_parser

from pipeline import paths, storage, texts, values
from pipeline.errors import UserError, nearest

assert importlib.util
ROOT = pathlib.Path(__file__).resolve().parents[1] / "gin"
ON_COMMAND_LINE = "--gin_param="  # how the origin of a binding from the command line begins
PATHS = ("train.pretrained", "shard.tokenizer")  # settings that name a file or a directory
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Macro:
    """``%NAME`` in a value; looked up when the value is read, since it may be bound after its use."""

    name: str


@dataclasses.dataclass(frozen=True)
class Reference:
    """``@NAME`` in a value, which is rejected when the value is read: only then is its place known."""

    name: str


class _References(config_parser.ParserDelegate):
    """Answers gin's parser."""

    def __init__(self) -> None:
        self.used: set[str] = set()

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> Reference:
        return Reference(scoped_configurable_name)

    def macro(self, macro_name: str) -> Macro:
        self.used.add(macro_name)
        return Macro(macro_name)


class Configuration:
    """The settings that gin files and overrides bind.

    Attributes:
        surfaces: the dataclasses whose fields can be bound, by their names in gin.
        bindings: for each setting, as (surface's name, field's name): its values in the order in which they were bound,
            each with its origin. The last one counts.
        folders: where files are looked up, in this order.
        by_name: returns the text of a file that is in no folder but follows from its name, or None; raises UserError if
            the name is close to such a name.
    """

    def __init__(
        self,
        surfaces: Mapping[str, type],
        folders: Sequence[pathlib.Path] = (pathlib.Path(), ROOT),
        by_name: Callable[[str], str | None] = lambda file: None,
    ) -> None:
        self.surfaces = surfaces
        self.by_name = by_name
        self.bindings: dict[tuple[str, str], list[tuple[Any, str]]] = {}
        self.folders = folders
        self._macros: dict[str, tuple[Any, str]] = {}
        self._references = _References()

    def read(self, files: Sequence[str], parameters: Sequence[str] = ()) -> None:
        """Binds what ``files`` say, then ``parameters`` (``name.parameter=value``).

        Raises:
            UserError: a file, name or parameter that does not exist, a value that cannot be read, a parameter that one
                file sets twice, or a macro that nothing uses.
        """
        for file in files:
            self._include(file, "--gin_file", ())
        for parameter in parameters:
            self._read_text(_quoted(parameter), ON_COMMAND_LINE + parameter, ())
        for macro, (_, origin) in self._macros.items():
            if macro not in self._references.used:
                near = nearest(macro, self.settings())
                raise UserError(f"{origin}: no value uses %{macro}{near}; write name.parameter = value")

    def get(self, surface: type[T]) -> T:
        """Returns the configured instance of ``surface``; UserError lists all required values that are missing."""
        name = self.name_of(surface)
        missing = [
            f"{name}.{field.name}"
            for field in dataclasses.fields(typing.cast(Any, surface))
            if field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING
            and (name, field.name) not in self.bindings
        ]
        if missing:
            raise UserError(
                f"no value for {', '.join(missing)}: set it in a gin file or with --gin_param={missing[0]}=…"
            )
        try:
            return surface(**{parameter: value for parameter, (value, _) in self.bound(surface).items()})
        except ValueError as error:
            raise UserError(f"{name}: {error}") from None

    def bound(self, surface: type) -> dict[str, tuple[Any, str]]:
        """Returns (value, origin) of each bound parameter of ``surface``; UserError for a value of the wrong type."""
        name, hints = self.name_of(surface), typing.get_type_hints(surface)
        bound = {}
        for (owner, parameter), given in self.bindings.items():
            if owner == name:
                value, origin = given[-1]
                where = f"{origin}: {name}.{parameter}"
                value = values.checked(where, self._resolved(value, where), hints[parameter])
                bound[parameter] = (_path(where, value) if f"{name}.{parameter}" in PATHS else value), origin
        return bound

    def bind(self, surface: type, parameter: str, value: Any, origin: str) -> None:
        """Binds a value that does not come from a gin file: from a trained model's description, for example."""
        self.bindings.setdefault((self.name_of(surface), parameter), []).append((value, origin))

    def provenance(self, *configured: Any) -> str:
        """Returns ``name.parameter = value  # origin`` for every field of the surfaces' instances, as gin text."""
        blocks = []
        for instance in configured:
            name = self.name_of(type(instance))
            rows = [
                (f"{name}.{field.name} = {getattr(instance, field.name)!r}", self.origin(name, field.name))
                for field in dataclasses.fields(instance)
            ]
            width = min(60, max(len(row) for row, _ in rows))
            blocks.append("\n".join(f"{row:<{width}}  # {origin}" for row, origin in rows))
        return "\n\n".join(blocks) + "\n"

    def origin(self, name: str, parameter: str) -> str:
        """Returns where a setting's value comes from: a file and its line, for example, or "default"."""
        return self.bindings[name, parameter][-1][1] if (name, parameter) in self.bindings else "default"

    def name_of(self, surface: type) -> str:
        """Returns a surface's name in gin."""
        return next(name for name, registered in self.surfaces.items() if registered is surface)

    def settings(self) -> list[str]:
        """Returns every name.parameter that exists."""
        return [
            f"{name}.{field.name}"
            for name, kind in self.surfaces.items()
            for field in dataclasses.fields(typing.cast(Any, kind))
        ]

    def _include(self, file: str, asked_by: str, includers: tuple[pathlib.Path, ...]) -> None:
        file = _path(asked_by, file)
        for folder in self.folders:
            if storage.size(str(folder / file)) is not None:
                self._read_file(folder / file, includers)
                return
        try:
            text = self.by_name(file)
        except UserError as error:
            raise UserError(f"{asked_by}: {error}") from None
        if text is None:
            raise UserError(f"{asked_by}: no gin file {file!r} here or under gin/{self._near(file)}")
        self._read_text(text, file, ())

    def _near(self, file: str) -> str:
        """Returns the existing gin file that is most like ``file``, and the names of all in its folder."""
        root = self.folders[-1]
        near = nearest(file, [str(path.relative_to(root)) for path in root.rglob("*.gin")])
        folder = pathlib.PurePath(file).parent
        beside = sorted(path.stem for path in (root / folder).glob("*.gin"))
        return f"{near}; {root.name}/{folder}/ has {', '.join(beside)}" if len(beside) > 1 and folder.name else near

    def _read_file(self, path: pathlib.Path, includers: tuple[pathlib.Path, ...]) -> None:
        if path in includers:
            raise UserError(f"{_short(path)}: includes itself through {' → '.join(map(_short, includers))}")
        try:
            text = texts.decode(path.read_bytes())
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{_short(path)}: cannot be read as UTF-8 text ({error})") from None
        self._read_text(text, _short(path), (*includers, path))

    def _read_text(self, text: str, source: str, includers: tuple[pathlib.Path, ...]) -> None:
        """Reads a file, the last of ``includers``; an override or a text by name has none, so no lines to name."""

        def place(line: int | None) -> str:
            return f"{source}:{line}" if includers and line else source

        try:
            for statement in config_parser.ConfigParser(text, self._references):
                location = getattr(statement, "location", None)
                self._handle(statement, place(location and location.line_num), includers)
        except tokenize.TokenError as error:  # the text ended inside brackets or quotes
            reason, (line_number, _) = error.args
            where = place(min(line_number, len(texts.lines(text))))
            raise UserError(f"{where}: {reason}; expected name.parameter = value") from None
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # very deep brackets raise the last two
            reason = str(error).splitlines()[0] if str(error) else "not a gin statement"
            where = place(getattr(error, "lineno", None))
            raise UserError(f"{where}: {reason[:200]}; expected name.parameter = value") from None

    def _handle(self, statement: Any, origin: str, includers: tuple[pathlib.Path, ...]) -> None:
        if isinstance(statement, config_parser.IncludeStatement):
            self._include(statement.filename, origin, includers)
        elif isinstance(statement, config_parser.BindingStatement):
            if statement.scope:
                raise UserError(f"{origin}: nothing here has scopes; expected no {statement.scope}/")
            self._bind(statement.selector, statement.arg_name, statement.value, origin)
        elif isinstance(statement, config_parser.ImportStatement):
            raise UserError(f"{origin}: import is not needed here; every surface is known already")

    def _bind(self, name: str, parameter: str, value: Any, origin: str) -> None:
        if not parameter:  # a macro: NAME = value
            self._macros[name] = value, origin
            return
        if name not in self.surfaces:
            known = ", ".join(self.surfaces)
            raise UserError(f"{origin}: nothing is called {name!r}{nearest(name, self.surfaces)}; known: {known}")
        surface = self.surfaces[name]
        parameters = [field.name for field in dataclasses.fields(typing.cast(Any, surface))]
        if parameter not in parameters:
            near = nearest(parameter, parameters) or f"; it has {', '.join(parameters)}"
            raise UserError(f"{origin}: {name} has no parameter {parameter!r}{near}")
        before, file = self.origin(name, parameter), origin.rpartition(":")[0]
        in_one_file = file and before != origin and before.rpartition(":")[0] == file
        if in_one_file and not origin.startswith(ON_COMMAND_LINE):
            raise UserError(f"{origin}: {name}.{parameter} is set twice, in {before} too: keep one")
        self.bind(surface, parameter, value, origin)

    def _resolved(self, value: Any, where: str, within: tuple[str, ...] = ()) -> Any:
        """Returns a value with its macros replaced; ``within`` are the macros that led to it."""
        if isinstance(value, Reference):
            raise UserError(f"{where}: expected a literal or a %macro, got @{value.name}")
        if isinstance(value, Macro):
            if value.name in within or value.name not in self._macros:
                setting = where.rpartition(" ")[2]
                missing = f"it has no value; give one by --gin_param={setting}=…"
                reason = "it refers to itself" if value.name in within else missing
                raise UserError(f"{where} = %{value.name}: {reason}")
            return self._resolved(self._macros[value.name][0], where, (*within, value.name))
        if isinstance(value, list | tuple):
            return type(value)(self._resolved(item, where, within) for item in value)
        return value


def _path(where: str, value: Any) -> Any:
    """Returns the path that gin binds, checked by ``paths.checked``; UserError for an invalid one."""
    try:
        return None if value is None else paths.checked(value)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


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
