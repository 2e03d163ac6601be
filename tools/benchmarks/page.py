"""Writes docs/benchmarks.md: each benchmark's docstring and its figures; nothing is typed by hand."""

import importlib
import pathlib
import re
from collections.abc import Mapping

HEAD = """# Benchmarks

Written by `python -m tools.bench --page=docs/benchmarks.md`, which is `make bench` with a page; `--only=NAME` measures
one and leaves the others. Ratios come from one run on one machine, where all contenders take turns; times of different
machines, or of another hour, do not compare.
"""


def write(path: pathlib.Path, results: Mapping[str, Mapping[str, object]], machine: str) -> None:
    """Writes the sections of the benchmarks that were run, and keeps the page's others."""
    sections = _sections(path.read_text(encoding="utf-8")) if path.is_file() else {}
    sections |= {name: _section(name, figures, machine) for name, figures in results.items()}
    path.write_text("\n".join([HEAD, *(sections[name] for name in sorted(sections))]), encoding="utf-8")


def _sections(text: str) -> dict[str, str]:
    parts = re.split(r"^(?=## )", text, flags=re.MULTILINE)[1:]
    return {part.split(maxsplit=2)[1]: part.rstrip() + "\n" for part in parts}


def _section(name: str, figures: Mapping[str, object], machine: str) -> str:
    description = (importlib.import_module(f"tools.benchmarks.{name}").__doc__ or "").strip()
    rows = [f"| {figure.replace('_', ' ')} | {_number(value)} |" for figure, value in figures.items()]
    table = "\n".join(["| figure | value |", "|---|---|", *rows])
    return f"## {name}\n\n{description}\n\n`python -m tools.bench --only={name}` on {machine}:\n\n{table}\n"


def _number(value: object) -> str:
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
