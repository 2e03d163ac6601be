"""Writes the page of every name that a gin file can bind, from the settings' own docstrings.

python -m tools.gin_reference --output=docs/gin.md
"""

import dataclasses
import inspect
import pathlib
import typing
from typing import Any

from absl import flags

from pipeline import cli
from pipeline.config.gin_reader import SURFACES
from pipeline.errors import WorkFailedError
from tools import explain

FLAGS = flags.FLAGS
HEAD = """# Every name that gin can bind

Made by `python -m tools.gin_reference --output=docs/gin.md` from the settings' docstrings. A gin file, or
`--gin_param=train.steps=100` on the command line, binds `name.setting = value`; `python -m tools.explain` prints what a
command line comes to, and where each value is from. A setting without a default must be bound.
"""


def define_flags() -> None:
    """Defines ``--output``."""
    cli.define_path("output", "docs/gin.md", "The page to write.")


def main() -> None:
    """Writes the page."""
    pathlib.Path(FLAGS.output).write_text(page(), encoding="utf-8")
    print(f"wrote {FLAGS.output}")


def page() -> str:
    """Returns the page; WorkFailedError if a docstring omits a setting."""
    pipelines = {name: surface for name, surface in SURFACES.items() if not surface.__module__.startswith("tools.")}
    return HEAD + "".join(section(name, surface) for name, surface in pipelines.items())


def section(name: str, surface: Any) -> str:
    """Returns the table of one surface's settings; WorkFailedError if its docstring omits one."""
    summary = _text(inspect.cleandoc(surface.__doc__).partition("\n\n")[0])
    fields, meanings, hints = explain.fields(surface), explain.meanings(surface), typing.get_type_hints(surface)
    missing = [key for key in fields if key not in meanings]
    if missing:
        raise WorkFailedError(f"{surface.__name__}'s docstring says nothing of {', '.join(missing)}")
    sentences = {key: meaning[0].upper() + meaning[1:] for key, meaning in meanings.items()}
    rows = [
        f"| `{name}.{key}` | `{_type(hints[key])}` | {_default(field)} | {_text(sentences[key])} |\n"
        for key, field in fields.items()
    ]
    return f"\n## {name}\n\n{summary}\n\n| name | type | default | meaning |\n|---|---|---|---|\n{''.join(rows)}"


def _text(docstring: str) -> str:
    return " ".join(docstring.replace("``", "`").split()).replace("|", r"\|")


def _type(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(repr(choice) for choice in typing.get_args(hint))
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint).replace(" | ", " or ")


def _default(field: dataclasses.Field) -> str:
    return "required" if field.default is dataclasses.MISSING else f"`{field.default!r}`"


if __name__ == "__main__":
    cli.run(main, define_flags)
