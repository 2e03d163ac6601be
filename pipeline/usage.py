"""The text of ``--help``: what a command does, an example, and each flag with its default."""

import os
import sys
import textwrap

from absl import flags

HELP = ("--help", "-help", "-h", "--h", "--helpfull", "--helpshort")
WIDTH = 80  # of a terminal


def command() -> str:
    """Returns how the running command was started, such as ``python -m pipeline.train``."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python -m {spec.name.removesuffix('.__main__')}" if spec else f"python {sys.argv[0]}"


def text(known: flags.FlagValues) -> str:
    """Returns the help of the running command: its module's docstring, then its own flags, not those of libraries."""
    lines = [(sys.modules["__main__"].__doc__ or "").strip(), "", "Flags:"]
    for flag in _flags(known):
        lines += ["", f"  --{_spelled(flag)}"]
        meaning = flag.help.partition(";\n")[0]  # absl adds that it repeats
        lines += textwrap.wrap(f"{meaning}{_default(flag)}", WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def _flags(known: flags.FlagValues) -> list[flags.Flag]:
    """Returns the flags that the project's modules define, in the order in which they do."""
    own = {os.path.abspath(sys.argv[0]), sys.argv[0], "__main__"}
    return [
        flag
        for module, defined in known.flags_by_module_dict().items()
        if module in own or module.startswith(("pipeline.", "tools."))
        for flag in defined
    ]


def _spelled(flag: flags.Flag) -> str:
    if flag.boolean:
        return f"[no]{flag.name}"
    return f"{flag.name}=… (repeats)" if isinstance(flag, flags.MultiFlag) else f"{flag.name}=…"


def _default(flag: flags.Flag) -> str:
    return "" if flag.default in (None, [], "") else f" Default: {flag.default}."
