"""Adds a schedule's kernels up by part of the model: seconds, the busiest unit, and what may wait for memory.

Plain arithmetic; imports neither TensorFlow nor JAX.
"""

from dataclasses import dataclass
from typing import Any

from pipeline.devices.tpu_specs import Generation
from pipeline.preflight.compiled import Kernel
from pipeline.preflight.schedule import PARTS

LONG = 20_000  # cycles of a kernel beside which the compiler's fixed latency of a fusion, about 2,000, is small


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The schedule of one step on one core.

    Args:
        seconds: By part of the model: its bundles, one a cycle, as if no data were ever waited for.
        waits: By part: what its kernels' traffic takes longer than their bundles, each alone, at the full bandwidth.
        units: By part: the unit with the fewest free slots, and the share of its slots that are used.
        compared: Bundles over the compiler's cycles, of all long kernels that have both and wait for no memory; None
            if there are none.
        compared_seconds: The bundles of those kernels.
        uncounted_loops: Loops within kernels that count once, since their length is unknown.
    """

    seconds: dict[str, float]
    waits: dict[str, float]
    units: dict[str, tuple[str, float]]
    compared: float | None
    compared_seconds: float
    uncounted_loops: int

    @property
    def total(self) -> float:
        """Seconds of all parts."""
        return sum(self.seconds.values())

    def as_json(self) -> dict[str, Any]:
        """Returns the figures under names that stand beside the preflight's others."""
        return {
            "schedule_seconds": self.total,
            "schedule": self.seconds,
            "schedule_waits": self.waits,
            "schedule_units": self.units,
            "schedule_over_cycles": self.compared,
        }


def figures(kernels: tuple[Kernel, ...], specs: Generation) -> Schedule:
    """Adds the kernels up for one core of a generation."""
    clock, bandwidth = specs.clock_ghz * 1e9, specs.hbm_gbps * 1e9
    seconds, waits = dict.fromkeys(PARTS, 0.0), dict.fromkeys(PARTS, 0.0)
    busy: dict[str, dict[str, float]] = {part: {} for part in PARTS}
    long_bundles = long_cycles = 0.0
    for kernel in kernels:
        issued, moved = kernel.runs * kernel.bundles / clock, kernel.runs * kernel.hbm_bytes / bandwidth
        seconds[kernel.part] += issued
        waits[kernel.part] += max(0.0, moved - issued)
        for unit, share in kernel.busy.items():
            busy[kernel.part][unit] = busy[kernel.part].get(unit, 0.0) + share * issued
        if min(kernel.cycles, kernel.bundles) > LONG and moved < issued:
            long_bundles += kernel.runs * kernel.bundles
            long_cycles += kernel.runs * kernel.cycles
    return Schedule(
        seconds=seconds,
        waits=waits,
        units={
            part: (max(used, key=lambda unit: used[unit]), max(used.values()) / seconds[part])
            for part, used in busy.items()
            if used and seconds[part]
        },
        compared=long_bundles / long_cycles if long_cycles else None,
        compared_seconds=long_bundles / clock,
        uncounted_loops=sum(kernel.uncounted_loops for kernel in kernels),
    )


def report(schedule: Schedule, specs: Generation) -> str:
    """Returns the text that the preflight prints."""
    lines = [
        f"bundles           {schedule.total * 1e3:.1f} ms: those of every kernel, one a cycle at "
        f"{specs.clock_ghz:.2f} GHz; without waits for memory (at most {sum(schedule.waits.values()) * 1e3:.1f} ms, "
        "if no kernel's traffic overlaps another's work) and without the network"
    ]
    for part, seconds in sorted(schedule.seconds.items(), key=lambda item: -item[1]):
        unit, share = schedule.units.get(part, ("", 0.0))
        busiest = f"{unit} {100 * share:.0f} % used" if unit else ""
        lines.append(f"  {part:<15} {seconds * 1e3:>7.2f} ms  {busiest:<35} waits {schedule.waits[part] * 1e3:.2f} ms")
    if schedule.compared:
        over = f"the {schedule.compared_seconds * 1e3:.1f} ms of long kernels that wait for no memory"
        lines.append(f"  beside the compiler's cycles: {schedule.compared:.2f} of them, over {over}")
    if schedule.uncounted_loops:
        lines.append(f"  {schedule.uncounted_loops} loops of unknown length, of copies mostly, are counted once")
    return "\n".join(lines)
