"""Reads libtpu's dump of a fusion or a Mosaic kernel: its VLIW bundles, how often each runs, which units it uses.

One bundle issues in about one cycle. The dump lists each once, with a mark per level of loops (">") and the test that
ends a loop ("loop exit test"). A loop over blocks of data is pipelined, so its test also counts the steps that fill and
drain the stages; the steps themselves are ``window_config``'s ``iteration_bounds``, or the kernel's grid. Conditional
code, like a causal kernel's blocks above the diagonal, counts at every step. Imports neither TensorFlow nor JAX.
"""

import pathlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

FLAGS = "--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true --xla_jf_dump_llo_pass_label_regex=final_(bundles|hlo)"
BUNDLES, UTILIZATION = "final_bundles.txt", "final_hlo-static-per-bundle-utilization.txt"
FILE = re.compile(rf"\d+-(.+)-\d+-(?:{re.escape(BUNDLES)}|{re.escape(UTILIZATION)})")
LINE = re.compile(r"\s*(?:0x[0-9a-f]+|0)\s+(\w*)\s*:\s*((?:>\s*)*)\{(.*)")
EXIT_TEST = re.compile(r"= scmp\.(ge|gt)\.s32\.totalorder %s[\w.]+, (\d+) /\* loop exit test")
STAGED = "iteration index, stage"
FILL_AND_DRAIN = 2  # extra trips of a loop whose data arrive one step before their use and leave one step after
UNITS = {  # by the columns of the utilization file
    "matrix unit": ("MATMUL", "MATPUSH"),
    "cross-lane unit": ("XLU",),
    "vector ALU": ("VALU",),
    "transcendental unit": ("EUP",),
    "vector loads": ("VLOAD", "VLOAD:FILL"),
    "vector stores": ("VSTORE", "VSTORE:SPILL"),
    "scalar ALU": ("SALU",),
}


@dataclass(frozen=True, kw_only=True)
class Emitted:
    """The schedule of one emitted program.

    Args:
        static: Bundles, each counted once.
        executed: Bundles, each counted as often as it runs.
        uncounted_loops: Loops of unknown length (copies within the core, for example); they count once.
        busy: By unit of the core, the share of its slots that the executed bundles use.
    """

    static: int
    executed: float
    uncounted_loops: int
    busy: dict[str, float]

    @property
    def busiest(self) -> str:
        """The unit with the fewest free slots; empty if unknown."""
        return max(self.busy, key=lambda unit: self.busy[unit], default="")


Files = tuple[pathlib.Path, pathlib.Path]  # of bundles and of units


def dumped(folder: pathlib.Path) -> dict[str, Files]:
    """Returns the bundle and unit files of every emitted program in a dump, by its name."""
    files: dict[str, dict[str, pathlib.Path]] = {}
    for path in sorted(folder.iterdir()):
        match = FILE.fullmatch(path.name)
        if match and not match[1].endswith("schedule-analysis"):
            files.setdefault(match[1], {})[path.name.rsplit("-", 1)[1]] = path
    names = BUNDLES, UTILIZATION.rsplit("-", 1)[1]
    return {name: (found[names[0]], found[names[1]]) for name, found in files.items() if set(names) <= set(found)}


def read(files: Files, steps: int | None = None) -> Emitted:
    """Reads one emitted program, whose outermost loop runs over ``steps`` blocks, if known."""
    bundles, utilization = (file.read_text(encoding="utf-8") for file in files)
    runs, uncounted = _runs([match for match in map(LINE.match, bundles.splitlines()) if match], steps)
    rows = list(_used_slots(utilization))
    used: dict[str, float] = dict.fromkeys(UNITS, 0.0)
    for times, row in zip(runs, rows, strict=False):
        for unit, share in row.items():
            used[unit] += times * share
    total = sum(runs)
    busy = {unit: share / total for unit, share in used.items()} if rows and total else {}
    return Emitted(static=len(runs), executed=total, uncounted_loops=uncounted, busy=busy)


def _runs(lines: list[re.Match], steps: int | None) -> tuple[list[float], int]:
    """Returns how often each bundle runs, and the number of loops whose trips are unknown."""
    runs, loops = [1.0] * len(lines), 0
    heads: dict[int, int] = {}  # of the open loops, by depth
    for place, line in enumerate(lines):
        depth = line[2].count(">")
        if line[1] == "LB":
            loops += 1
            heads = {level: head for level, head in heads.items() if level < depth} | {depth: place}
        test = EXIT_TEST.search(line[3])
        if test and depth in heads:
            loops -= 1
            head = heads.pop(depth)
            trips = _trips(test, lines[head : place + 1], steps if depth == 1 else None)
            runs[head : place + 1] = [times * trips for times in runs[head : place + 1]]
    return runs, loops


def _trips(test: re.Match, body: list[re.Match], steps: int | None) -> int:
    trips = int(test[2]) + (test[1] == "gt")
    if steps is not None:
        return min(trips, steps)
    staged = any(STAGED in line[3] for line in (body[0], body[-1]))
    return max(1, trips - FILL_AND_DRAIN) if staged else trips


def _used_slots(text: str) -> Iterator[dict[str, float]]:
    """Yields, for each bundle, the share of each unit's slots that it uses."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) < 3:
        return
    columns = [column.strip() for column in lines[1].split(",")]
    capacity = dict(zip(columns, map(float, lines[2].split()), strict=True))
    for line in lines[4:]:
        used = dict(zip(columns, map(float, line.split()), strict=True))
        yield {unit: max(used.get(c, 0) / capacity.get(c, 1) for c in parts) for unit, parts in UNITS.items()}
