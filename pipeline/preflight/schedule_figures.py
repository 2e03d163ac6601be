"""Sums a schedule's kernels by part of the model: seconds, the busiest unit, and what may wait for memory.

Plain arithmetic; imports neither TensorFlow nor JAX.
"""

from dataclasses import dataclass
from typing import Any

from pipeline.devices.tpu_specs import Generation
from pipeline.preflight.compiled import Kernel
from pipeline.preflight.schedule import PARTS

# A kernel's cycles count as arithmetic if they are at most this many times its FLOPs' time at the peak.
ARITHMETIC = 4 / 3


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The schedule of one step on one core.

    Args:
        seconds: By part of the model: its kernels' bundles, one per cycle, as if data never had to be waited for; or a
            kernel's FLOPs at the peak, if longer, since products can wait for the matrix unit.
        waits: By part: how much longer its kernels' traffic takes than their bundles, each alone, at full bandwidth.
        units: By part: the unit with the fewest free slots, and the share of its slots that are used.
        compared: Bundles over the compiler's cycles, for all kernels whose cycles count as arithmetic; None if there
            are none.
        compared_range: The least and the greatest of the kernels' own ratios.
        compared_seconds: The bundles of those kernels.
        uncounted_loops: Loops of unknown length within kernels, which count once.
    """

    seconds: dict[str, float]
    waits: dict[str, float]
    units: dict[str, tuple[str, float]]
    compared: float | None
    compared_range: tuple[float, float]
    compared_seconds: float
    uncounted_loops: int

    @property
    def total(self) -> float:
        """Seconds of all parts."""
        return sum(self.seconds.values())

    def as_json(self) -> dict[str, Any]:
        """Returns the figures, with names that fit the preflight's others."""
        return {
            "schedule_seconds": self.total,
            "schedule": self.seconds,
            "schedule_waits": self.waits,
            "schedule_units": self.units,
            "schedule_over_cycles": self.compared,
            "schedule_over_cycles_range": self.compared_range,
        }


def figures(kernels: tuple[Kernel, ...], specs: Generation) -> Schedule:
    """Sums the kernels for one core of a generation."""
    clock, bandwidth = specs.clock_ghz * 1e9, specs.hbm_gbps * 1e9
    seconds, waits = dict.fromkeys(PARTS, 0.0), dict.fromkeys(PARTS, 0.0)
    busy: dict[str, dict[str, float]] = {part: {} for part in PARTS}
    for kernel in kernels:
        issued = kernel.runs * max(kernel.bundles, kernel.flops / specs.flops_per_cycle) / clock
        moved = kernel.runs * kernel.hbm_bytes / bandwidth
        seconds[kernel.part] += issued
        waits[kernel.part] += max(0.0, moved - issued)
        for unit, share in kernel.busy.items():
            busy[kernel.part][unit] = busy[kernel.part].get(unit, 0.0) + share * issued
    products = [k for k in kernels if k.bundles and 0 < k.cycles < ARITHMETIC * k.flops / specs.flops_per_cycle]
    bundles = sum(kernel.runs * kernel.bundles for kernel in products)
    ratios = [kernel.bundles / kernel.cycles for kernel in products]
    return Schedule(
        seconds=seconds,
        waits=waits,
        units={
            part: (max(used, key=lambda unit: used[unit]), max(used.values()) / seconds[part])
            for part, used in busy.items()
            if used and seconds[part]
        },
        compared=bundles / sum(kernel.runs * kernel.cycles for kernel in products) if products else None,
        compared_range=(min(ratios, default=0.0), max(ratios, default=0.0)),
        compared_seconds=bundles / clock,
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
        low, high = schedule.compared_range
        over = f"the {schedule.compared_seconds * 1e3:.1f} ms whose cycles are those of arithmetic"
        lines.append(f"  over the compiler's cycles: {schedule.compared:.2f} ({low:.2f} to {high:.2f}), in {over}")
    if schedule.uncounted_loops:
        lines.append(f"  {schedule.uncounted_loops} loops of unknown length, of copies mostly, are counted once")
    return "\n".join(lines)
