"""What a command says about its flags: ``--help``, and the error for a wrong flag."""

import sys
import textwrap
from types import ModuleType

from absl import flags

from pipeline.errors import nearest

HELP = ("--help", "-help", "-h", "--h", "--helpfull", "--helpshort")
WIDTH = 80  # of a terminal


def command(module: ModuleType) -> str:
    """Returns how to start a module's command: ``python -m pipeline.train``."""
    spec = getattr(module, "__spec__", None)
    return f"python -m {spec.name.removesuffix('.__main__')}" if spec else f"python {sys.argv[0]}"


def text(module: ModuleType, own: list[flags.Flag]) -> str:
    """Returns the help of a module's command: the module's docstring, then the command's flags."""
    paragraphs = (module.__doc__ or "").strip().split("\n\n")
    lines = ["\n\n".join(map(_filled, paragraphs)), "", "Flags:"]
    for flag in own:
        lines += ["", f"  --{_spelled(flag)}"]
        value = ",".join(flag.default) if isinstance(flag.default, list) else flag.default
        default = "" if value in (None, "") else f" Default: {value}."
        meaning = flag.help.partition(";\n")[0]  # absl adds that it repeats
        lines += textwrap.wrap(f"{meaning}{default}", WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def _filled(paragraph: str) -> str:
    """Returns a docstring's paragraph, wrapped for a terminal; examples and indented text keep their lines."""
    if any(line.startswith((" ", "python -m ")) for line in paragraph.splitlines()):
        return paragraph
    return textwrap.fill(paragraph, WIDTH, break_long_words=False, break_on_hyphens=False)


def mistake(error: flags.Error | ValueError, own: list[flags.Flag], module: ModuleType) -> str:
    """Returns what is wrong with a command line's flags, and for an unknown flag the nearest one."""
    if isinstance(error, flags.UnrecognizedFlagError):
        no = "no" if error.flagname.startswith("no") else ""  # this prefix turns a boolean flag off
        near = nearest(error.flagname, [f"{no if flag.boolean else ''}{flag.name}" for flag in own])
        near = near.replace("'", "'--", 1)
        return f"there is no flag --{error.flagname}{near}; {command(module)} --help lists them"
    return " ".join(str(error).split()).removeprefix("flag ").replace("Missing value for flag ", "no value follows ")


def expected(flag: flags.Flag) -> str:
    """Returns what a numeric or boolean flag takes; an empty string for others, which have our own checks.

    absl's own words are Python's: "invalid literal for int() with base 10".
    """
    if flag.boolean:
        return f"--{flag.name} or --no{flag.name}"
    if isinstance(flag.parser, flags.IntegerParser | flags.FloatParser):
        words = flag.parser.syntactic_help  # "an integer", "a number in the range [0, 1]"
        return words.replace("an integer", "a whole number").replace("integer", "whole number")
    return ""


def _spelled(flag: flags.Flag) -> str:
    if flag.boolean:
        return f"[no]{flag.name}"
    return f"{flag.name}=… (repeats)" if isinstance(flag, flags.MultiFlag) else f"{flag.name}=…"
