"""Lists what gin can configure: each setting with its type, its default or "required", its unit and its meaning.

    python -m tools.explain                    # every surface, one line each
    python -m tools.explain Adafactor          # one surface, setting by setting
    python -m tools.explain --gin_file=gpt2.gin train.steps

With --gin_file it also shows each setting's value in that file and the line that sets it.
"""

import dataclasses
import inspect
import re
import textwrap
import typing

from absl import flags

from pipeline import cli, values
from pipeline.config import gin_reader
from pipeline.errors import UserError, nearest
from pipeline.gin_files import Configuration

FLAGS = flags.FLAGS
WIDTH = 120


def main(name: str = "") -> None:
    """Explains all surfaces, one of them, or one setting."""
    configuration = gin_reader.load(FLAGS.gin_file, FLAGS.gin_param)
    surface, _, setting = name.partition(".")
    if not name:
        print("\n".join(f"{surface:<10} {summary(kind)}" for surface, kind in gin_reader.SURFACES.items()))
        return
    if surface not in gin_reader.SURFACES:
        every = [*gin_reader.SURFACES, *configuration.settings()]
        raise UserError(f"{name!r} cannot be configured{nearest(name, every)}; known: {', '.join(gin_reader.SURFACES)}")
    kind = gin_reader.SURFACES[surface]
    if setting and setting not in fields(kind):
        raise UserError(
            f"{surface} has no setting {setting!r}{nearest(setting, fields(kind))}: {', '.join(fields(kind))}"
        )
    if not setting:
        print(f"{surface}: {summary(kind)}")
    print("\n".join(explain(configuration, kind, key) for key in ([setting] if setting else fields(kind))))


def fields(kind: type) -> dict[str, dataclasses.Field]:
    """Returns a surface's settings by name."""
    return {field.name: field for field in dataclasses.fields(typing.cast(typing.Any, kind))}


def summary(kind: type) -> str:
    """Returns the first line of a surface's docstring."""
    return inspect.cleandoc(kind.__doc__ or "").splitlines()[0]


def meanings(kind: type) -> dict[str, str]:
    """Returns each setting's meaning, from the docstrings of a surface and those it extends."""
    found: dict[str, str] = {}
    for ancestor in reversed(kind.__mro__):
        text = inspect.cleandoc(ancestor.__doc__ or "")
        section = re.search(r"^(?:Args|Attributes):\n((?:[ ]+.*\n?|\n)*)", text, re.MULTILINE)
        body = textwrap.dedent(section[1]) if section else ""
        for names, meaning in re.findall(r"^(\w+(?:, \w+)*): ((?:.*\n?(?:[ ]+.*\n?)*))", body, re.MULTILINE):
            found |= {name: " ".join(meaning.split()) for name in names.split(", ")}
    return found


def explain(configuration: Configuration, kind: type, setting: str) -> str:
    """Returns a setting's name, type, default and meaning, and where the configuration binds it."""
    field, bound = fields(kind)[setting], configuration.bound(kind)
    type_name = values.type_name(typing.get_type_hints(kind)[setting])
    default = "required" if field.default is dataclasses.MISSING else f"default {field.default!r}"
    head = f"{configuration.name_of(kind)}.{setting}  ({type_name}; {default})"
    if setting in bound:
        value, origin = bound[setting]
        head += f" = {value!r}  # {origin}"
    meaning = meanings(kind)[setting]
    return head + "\n" + textwrap.fill(meaning, WIDTH, initial_indent="    ", subsequent_indent="    ")


def define_flags() -> None:
    """Defines the flags."""
    cli.define_gin_flags()


if __name__ == "__main__":
    cli.run(main, define_flags)
