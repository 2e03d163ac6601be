r"""Benchmarks: ratios against the usual tools, measured in one run on this machine.

    python -m tools.bench [--json=FILE] [--page=FILE.md] \
        [--only=shard,archives,read,step,evaluate,accumulation,generate]
    python -m tools.bench --only=recipe

Without --only, all run except recipe, which takes an hour and a half.
"""

import importlib
import json
import os
import pathlib
import platform
import re
from collections.abc import Mapping, Sequence

from absl import flags

from pipeline import cli, stop_signals, storage
from pipeline.devices import wheels
from pipeline.errors import UserError, nearest, pip_install

FLAGS = flags.FLAGS
# tools/benchmarks/NAME.py, each with run() -> {figure: number}
BENCHMARKS = ("shard", "archives", "read", "step", "evaluate", "accumulation", "generate")
LONG = ("recipe",)  # run only if named
# The packages of requirements-dev.txt that they compare with; a missing one must not stop the others half-way.
REFERENCES = {"shard": ("datasets", "tiktoken"), "step": ("keras-hub",), "generate": ("keras-hub",)}
HEAD = """# Benchmarks

Written by `python -m tools.bench --page=docs/benchmarks.md`, which is `make bench` with a page; `--only=NAME` measures
one and leaves the others. Ratios come from one run on one machine, where all contenders take turns; times from
different machines or hours are not comparable.
"""


def machine() -> str:
    """Returns one line on what the figures were measured on."""
    named = stated("/proc/cpuinfo", r"model name\s*:(.*)$").strip()
    model = named or platform.processor() or platform.machine()
    return f"{model}, {os.cpu_count()} cores, {platform.system()}, CPython {platform.python_version()}"


def stated(file: str, pattern: str) -> str:
    """Returns what a line in a kernel file says; nothing if it has no such line."""
    try:
        match = re.search(f"^{pattern}", pathlib.Path(file).read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    except OSError:
        return ""
    return match[1] if match else ""


def main() -> None:
    """Runs the benchmarks, prints their figures, and writes the requested files."""
    stop_signals.exit_on_sigterm()
    names = FLAGS.only or BENCHMARKS
    check(names)
    print(f"machine: {machine()}")
    results: dict[str, dict[str, object]] = {}
    for name in names:
        print(f"\n{name}")
        results[name] = importlib.import_module(f"tools.benchmarks.{name}").run()
        if FLAGS.json:  # after each: the next may fail or be interrupted
            text = json.dumps({"machine": machine(), **results}, indent=2) + "\n"
            storage.replace_bytes(text.encode(), FLAGS.json)
        if FLAGS.page:
            write_page(pathlib.Path(FLAGS.page), results, machine())


def check(names: Sequence[str]) -> None:
    """Raises UserError, before minutes of measuring, if something cannot be measured or written."""
    for name in names:
        if name not in (known := (*BENCHMARKS, *LONG)):
            raise UserError(f"--only={name}: expected one of {', '.join(known)}{nearest(name, known)}")
        if missing := [package for package in REFERENCES.get(name, ()) if wheels.installed(package) is None]:
            install = pip_install("-r requirements-dev.txt")
            raise UserError(f"{name} compares with {' and '.join(missing)}, which is not installed: {install}")
    cli.check_files("json", "page")
    wheels.check_wheels()


def write_page(path: pathlib.Path, results: Mapping[str, Mapping[str, object]], measured_on: str) -> None:
    """Writes the sections of the benchmarks that ran, and keeps the page's others."""
    sections = _sections(path.read_text(encoding="utf-8")) if path.is_file() else {}
    sections |= {name: _section(name, figures, measured_on) for name, figures in results.items()}
    path.write_text("\n".join([HEAD, *(sections[name] for name in sorted(sections))]), encoding="utf-8")


def _sections(text: str) -> dict[str, str]:
    parts = re.split(r"^(?=## )", text, flags=re.MULTILINE)[1:]
    return {part.split(maxsplit=2)[1]: part.rstrip() + "\n" for part in parts}


def _section(name: str, figures: Mapping[str, object], measured_on: str) -> str:
    description = (importlib.import_module(f"tools.benchmarks.{name}").__doc__ or "").strip()
    rows = [f"| {figure.replace('_', ' ')} | {_number(value)} |" for figure, value in figures.items()]
    table = "\n".join(["| figure | value |", "|---|---|", *rows])
    return f"## {name}\n\n{description}\n\n`python -m tools.bench --only={name}` on {measured_on}:\n\n{table}\n"


def _number(value: object) -> str:
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def define_flags() -> None:
    """Defines the flags."""
    flags.DEFINE_list("only", None, "Some of: " + ", ".join((*BENCHMARKS, *LONG)))
    cli.define_path("json", None, "Also write the figures to this file.")
    cli.define_path("page", None, "Also write them into this Markdown page; its other sections stay.")


if __name__ == "__main__":
    cli.run(main, define_flags)
