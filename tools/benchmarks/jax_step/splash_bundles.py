"""Counts the bundles that JAX's splash attention runs: fewer than the schedule's if squares of scores are masked.

A kernel visits all squares under three conditions: it starts sums at the first square of a row or column, works where
the mask leaves something, and writes out the sums at the last. pipeline.preflight.bundles counts code under a condition
at every step of the grid. Imports neither TensorFlow nor JAX.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence

from pipeline.errors import WorkFailedError
from pipeline.preflight import bundles
from pipeline.preflight.compiled import Kernel

FORWARD, BACKWARD = "splash_mha_fwd", "splash_mha_dkv"
PRODUCTS = {FORWARD: 2, BACKWARD: 5}  # of two matrices, for each square
BRANCH = re.compile(r"= sbr\.rel \([^)]*\) target = \$region(\d+)")
REJOINED = re.compile(r"(?:Start/End empty|Start|End) region (\d+)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid:
    """The squares of a causal kernel: rows of ``block_q`` queries, columns of ``block_kv`` keys."""

    context: int
    block_q: int
    block_kv: int

    def conditions(self, kernel: str) -> tuple[float, float, float]:
        """Returns the share of steps at which a kernel starts sums, works, and writes sums out."""
        rows, columns = self.context // self.block_q, self.context // self.block_kv
        ends = 1 / (columns if kernel == FORWARD else rows)
        return ends, self.worked, ends

    @property
    def worked(self) -> float:
        """Share of the squares that the mask does not cover completely."""
        rows, columns = self.context // self.block_q, self.context // self.block_kv
        seen = [min(columns, -(-(row + 1) * self.block_q // self.block_kv)) for row in range(rows)]
        return sum(seen) / (rows * columns)


def counted(kernel: Kernel, dumped: Mapping[str, bundles.Files], grid: Grid, heads: int, head_width: int) -> Kernel:
    """Returns a schedule's kernel without the bundles that its conditions skip, and with its FLOPs.

    Args:
        kernel: as schedule.kernels counts it; kernels other than splash attention's are returned unchanged.
        dumped: the program's dump; equal kernels are dumped once, under one of their names.
        grid: its squares.
        heads: of all sequences together.
        head_width: of one head.

    Raises:
        WorkFailedError: the dump does not have the three conditions.
    """
    kind = kind_of(kernel.name)
    if kind is None:
        return kernel
    flops = PRODUCTS[kind] * 2.0 * head_width * grid.context**2 * grid.worked * heads
    squares = grid.context**2 // (grid.block_q * grid.block_kv)
    if squares == 1:
        return dataclasses.replace(kernel, flops=flops)
    names = [name for name in (kernel.name, *dumped) if name in dumped and kind_of(name) == kind]
    spans = conditional(dumped[names[0]][0].read_text(encoding="utf-8").splitlines()) if names else []
    if len(spans) != 3:
        raise WorkFailedError(f"{kernel.name} has {len(spans)} conditions of its own in libtpu's dump; expected 3")
    left_out = sum(span * (1 - share) for span, share in zip(spans, grid.conditions(kind), strict=True))
    return dataclasses.replace(kernel, flops=flops, bundles=kernel.bundles - left_out * heads * squares)


def kind_of(name: str) -> str | None:
    """Returns which of splash attention's kernels has this name; None if none has."""
    return next((kind for kind in PRODUCTS if name.startswith(kind)), None)


def conditional(lines: Sequence[str]) -> list[int]:
    """Returns the bundles under each condition of a kernel's step, in order, without nested ones.

    A whole step is under a condition too, since the loop's first and last trips only move data.
    """
    opened: dict[str, tuple[int, int]] = {}  # by region: the bundle that jumps there, and the depth
    spans: list[tuple[int, int, int]] = []
    bundle = 0
    for line in lines:
        match = bundles.LINE.match(line)
        bundle += match is not None
        if branch := BRANCH.search(line):
            opened[branch[1]] = bundle, len(opened)
        elif match and match[1] == "PF":
            for region in REJOINED.findall(line):
                if region in opened:
                    start, depth = opened.pop(region)
                    spans.append((start, depth, bundle - 1 - start))
    return [size for _, depth, size in sorted(spans) if depth == 1]
