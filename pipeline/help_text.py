"""The text of ``--help``: what a command does, an example, and each flag with its default."""

import sys
import textwrap
from types import ModuleType

from absl import flags

HELP = ("--help", "-help", "-h", "--h", "--helpfull", "--helpshort")
WIDTH = 80  # of a terminal


def command(module: ModuleType) -> str:
    """Returns how a module's command is started, such as ``python -m pipeline.train``."""
    spec = getattr(module, "__spec__", None)
    return f"python -m {spec.name.removesuffix('.__main__')}" if spec else f"python {sys.argv[0]}"


def text(module: ModuleType, own: list[flags.Flag]) -> str:
    """Returns the help of a module's command: the module's docstring, then the command's flags."""
    lines = [(module.__doc__ or "").strip(), "", "Flags:"]
    for flag in own:
        lines += ["", f"  --{_spelled(flag)}"]
        default = "" if flag.default in (None, [], "") else f" Default: {flag.default}."
        meaning = flag.help.partition(";\n")[0]  # absl adds that it repeats
        lines += textwrap.wrap(f"{meaning}{default}", WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def _spelled(flag: flags.Flag) -> str:
    if flag.boolean:
        return f"[no]{flag.name}"
    return f"{flag.name}=… (repeats)" if isinstance(flag, flags.MultiFlag) else f"{flag.name}=…"
