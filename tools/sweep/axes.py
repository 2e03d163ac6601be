"""The settings that a sweep varies: lists, grids and random samples of values, in the command line's syntax.

Imports neither TensorFlow nor Keras.
"""

import ast
import itertools
import json
import math
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline import texts
from pipeline.errors import UserError

Overrides = dict[str, Any]  # setting, such as "Adafactor.learning_rate": value
MOST_CELLS = 10_000  # of a sweep; each is a training run
RANGE = re.compile(r"(log|uniform|int)\((.+),(.+)\)")


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, drawn uniformly (``uniform``, ``int``) or uniformly in the logarithm."""

    kind: str
    low: float
    high: float

    def draw(self, chance: random.Random) -> float | int:
        """Returns a number with six digits, so it is readable and names the same cell everywhere."""
        if self.kind == "int":
            return chance.randint(int(self.low), int(self.high))
        if self.kind == "uniform":
            return float(f"{chance.uniform(self.low, self.high):.6g}")
        return float(f"{math.exp(chance.uniform(math.log(self.low), math.log(self.high))):.6g}")


@dataclass(frozen=True)
class Axis:
    """One setting and its candidates: some values, or a range to sample."""

    name: str
    values: tuple[Any, ...] | Range


def grid_axis(text: str) -> Axis:
    """Reads ``NAME=[VALUE,VALUE]``; words need no quotes."""
    name, values = _split(text, "--grid", "NAME=[VALUE,VALUE]")
    return Axis(name, _values(values, f"--grid={text}"))


def sample_axis(text: str) -> Axis:
    """Reads ``NAME=log(LOW,HIGH)``, ``uniform(…)``, ``int(…)`` or ``[VALUE,VALUE]``."""
    name, values = _split(text, "--sample", "NAME=log(1e-4,1e-2)")
    if values.startswith("["):
        return Axis(name, _values(values, f"--sample={text}"))
    match = RANGE.fullmatch(values.replace(" ", ""))
    try:
        low, high = (float(number) for number in match.groups()[1:]) if match else (1.0, 0.0)
    except ValueError:
        low, high = 1.0, 0.0
    if not match or not -math.inf < low < high < math.inf or (match[1] == "log" and low <= 0):
        raise UserError(
            f"--sample={text}: expected log(LOW,HIGH), uniform(LOW,HIGH), int(LOW,HIGH) or [VALUE,VALUE], "
            "with LOW below HIGH, and above 0 for log"
        )
    return Axis(name, Range(match[1], low, high))


def read_list(file: str) -> list[Overrides]:
    """Reads a file of JSON lines, each an object {setting: value} with one cell's overrides."""
    lines = texts.lines(texts.read_file(file, "--list")[0])
    cells = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            cell = json.loads(line)
        except (ValueError, RecursionError):
            cell = None
        if not isinstance(cell, dict) or not cell:
            raise UserError(f'--list={file}:{number}: expected a JSON object, such as {{"train.seed": 1}}')
        cells.append({full_name(name): value for name, value in cell.items()})
    if not cells:
        raise UserError(f"--list={file}: it is empty; expected one JSON object per line")
    return cells


def fixed(text: str) -> Overrides:
    """Reads ``NAME=VALUE``, as a Weights & Biases agent passes it."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UserError(f"{text!r} is neither a flag nor a setting; expected NAME=VALUE, or --name=value")
    return {full_name(name): literal(value)}


def combine(
    listed: Sequence[Overrides], grid: Iterable[Axis], samples: Iterable[Axis], *, count: int, seed: int, seeds: int
) -> list[Overrides]:
    """Returns every combination of listed cells, ``count`` samples, grid values and seeds, in that order.

    An empty list means one cell without overrides. The values of ``train.seed`` are 0 … seeds-1; 0 leaves it alone.

    Raises:
        UserError: there are more than MOST_CELLS.
    """
    chance, sampled, axes = random.Random(seed), list(samples), list(grid)
    values = [axis.values for axis in axes if not isinstance(axis.values, Range)]
    _require_few(list=len(listed), random=count if sampled else 1, grid=math.prod(map(len, values)), seeds=seeds)
    drawn = [{axis.name: _draw(axis, chance) for axis in sampled} for _ in range(count)] if sampled else [{}]
    products = [{axis.name: value for axis, value in zip(axes, row, strict=True)} for row in itertools.product(*values)]
    by_seed: list[Overrides] = [{"train.seed": number} for number in range(seeds)] or [{}]
    return [
        first | second | third | last
        for first, second, third, last in itertools.product(listed or [{}], drawn, products, by_seed)
    ]


def _require_few(**factors: int) -> None:
    cells = math.prod(max(1, factor) for factor in factors.values())
    if cells > MOST_CELLS:
        shown = " × ".join(f"--{flag} {factor:,}" for flag, factor in factors.items() if factor > 1)
        raise UserError(f"{shown}: {cells:,} cells; expected at most {MOST_CELLS:,}")


def _draw(axis: Axis, chance: random.Random) -> Any:
    return axis.values.draw(chance) if isinstance(axis.values, Range) else chance.choice(axis.values)


def _split(text: str, flag: str, expected: str) -> tuple[str, str]:
    name, equals, values = (part.strip() for part in text.partition("="))
    if not name or not equals or not values:
        raise UserError(f"{flag}={text}: expected {expected}")
    return full_name(name), values


def full_name(name: str) -> str:
    """Returns a setting's full name: without a part's name it is the run's, such as ``train.model`` for ``model``."""
    return name if "." in name else f"train.{name}"


def _values(text: str, flag: str) -> tuple[Any, ...]:
    if not (text.startswith("[") and text.endswith("]") and text[1:-1].strip()):
        raise UserError(f"{flag}: expected a list such as [1e-3,3e-4]")
    parts = _at_commas(text[1:-1])
    if not all(part.strip() for part in parts):
        raise UserError(f"{flag}: a value beside a comma is empty; expected a list such as [1e-3,3e-4]")
    return tuple(literal(part) for part in parts)


def _at_commas(text: str) -> list[str]:
    """Splits at the commas outside brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
        if letter == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def literal(text: str) -> Any:
    """Reads a Python value; a bare word is a string."""
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError):  # the last two: from very many brackets
        return text.strip()
