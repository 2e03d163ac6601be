"""The slices of each TPU generation, by its rules: their names, topologies and hosts.

A name (``v3-128``) counts TensorCores, two per chip, on v2 to v5p, and chips on v5e and v6e. Sources: the names at
https://cloud.google.com/tpu/docs/regions-zones (v2, v3), .../docs/v5e, .../docs/v6e and .../docs/v5p; the shapes at
.../docs/types-topologies (v4: for a number of chips, the shape most like a cube; edges above four are multiples of
four), .../docs/v5p and .../docs/v5e. Virtual machines have four chips; v5e and v6e also have some with one and, for a
slice of eight chips, one with eight.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

CUBE = 4  # chips along each edge of the block from which large slices of v4 and v5p are built
LONGEST_EDGE = 256  # in chips: a number of cubes that needs a longer row is no slice
NAME = re.compile(r"(?P<generation>v\d{1,3}[a-z]*)-(?P<count>[1-9]\d{0,6})")
CHIPS_PER_HOST = 4


def _rectangle(chips: int) -> str:
    """Returns the topology for a power of two of chips: a square, or two squares side by side."""
    edge = 1
    while 4 * edge * edge <= chips:
        edge *= 2
    return f"{edge}x{chips // edge}"


def _most_cubic(chips: int) -> str:
    """Returns the topology most like a cube for a number of chips; an empty string if no allowed edges fit."""
    if chips < CUBE**3:
        return {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4"}.get(chips, "")
    cubes = chips // CUBE**3
    shapes = [
        (CUBE * a, CUBE * b, CUBE * (cubes // a // b))
        for a in range(1, round(cubes ** (1 / 3)) + 1)
        for b in range(a, cubes + 1)
        if cubes % (a * b) == 0 and b <= cubes // a // b <= LONGEST_EDGE // CUBE
    ]
    return "x".join(map(str, min(shapes, key=sum))) if shapes else ""


def _cubes(most_chips: int) -> tuple[int, ...]:
    """Returns the chip counts of v4 and v5p slices: parts of a cube, and whole cubes."""
    whole = range(CUBE**3, most_chips + 1, CUBE**3)
    return tuple(chips for chips in (4, 8, 16, 32, *whole) if _most_cubic(chips))


@dataclass(frozen=True)
class Rules:
    """The slices of one generation.

    Args:
        counted: What a name counts on each chip: 2 TensorCores, or 1 chip.
        chips: Of each slice, ascending.
        topology: Returns the chips along each edge for a number of chips.
        largest_host: Chips of the largest slice that is one virtual machine.
    """

    counted: int
    chips: tuple[int, ...]
    topology: Callable[[int], str]
    largest_host: int = CHIPS_PER_HOST

    @property
    def counts(self) -> list[int]:
        """The number in each name, ascending."""
        return [chips * self.counted for chips in self.chips]


_E_SIZES = (1, 4, 8, 16, 32, 64, 128, 256)
RULES = {
    "v2": Rules(2, (4, 16, 64, 128, 256), _rectangle),
    "v3": Rules(2, (4, 16, 32, 64, 128, 256, 512, 1024), _rectangle),
    "v4": Rules(2, _cubes(4096), _most_cubic),
    "v5e": Rules(1, _E_SIZES, _rectangle, largest_host=8),
    "v5p": Rules(2, _cubes(6144), _most_cubic),
    "v6e": Rules(1, _E_SIZES, _rectangle, largest_host=8),
}


@dataclass(frozen=True)
class Shape:
    """A slice by the rules: its generation, its chips along each edge, its chips and its machines."""

    generation: str
    topology: str
    chips: int
    hosts: int


def shape(name: str) -> Shape | None:
    """Returns the shape of the slice of this name ("v3-128"); None if there is none."""
    match = NAME.fullmatch(name)
    rules = RULES.get(match["generation"]) if match else None
    if not match or not rules or int(match["count"]) not in rules.counts:
        return None
    chips = int(match["count"]) // rules.counted
    hosts = 1 if chips <= rules.largest_host else chips // CHIPS_PER_HOST
    return Shape(match["generation"], rules.topology(chips), chips, hosts)


def names() -> list[str]:
    """Returns the names of all slices, by generation and size."""
    return [f"{generation}-{count}" for generation, rules in RULES.items() for count in rules.counts]


def ranges() -> list[str]:
    """Returns each generation's smallest and largest slice: "v3-8 to v3-2048"."""
    return [f"{name}-{rules.counts[0]} to {name}-{rules.counts[-1]}" for name, rules in RULES.items()]


def near(name: str) -> list[str]:
    """Returns the slices nearest to a name ("v3-100", "v7-8"); an empty list if it names no TPU.

    In a known generation, the next smaller and larger; otherwise, those of the nearest generations.
    """
    match = NAME.fullmatch(name)
    if not match:
        return []
    generation, count = match["generation"], int(match["count"])
    if generation in RULES:
        counts = RULES[generation].counts
        chosen = [
            *[known for known in counts if known <= count][-1:],
            *[known for known in counts if known > count][:1],
        ]
        return [f"{generation}-{known}" for known in chosen]
    apart = {known: abs(_number(known) - _number(generation)) for known in RULES}
    nearest = [known for known in RULES if apart[known] == min(apart.values())]
    return [f"{known}-{min(RULES[known].counts, key=lambda other: abs(other - count))}" for known in nearest]


def _number(generation: str) -> int:
    return int("".join(filter(str.isdigit, generation)))
