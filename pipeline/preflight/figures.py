"""From what the TPU compiler said of a program to what a person wants to know: fits, memory, time, tokens, hours.

Light: plain arithmetic on pipeline.preflight.tpu_compiler.Compiled.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

from pipeline.config.batch_plan import BatchPlan
from pipeline.devices.slices import Slice
from pipeline.preflight.tpu_compiler import GIB, Compiled


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One training step of one replica on one core, and the run that it adds up to.

    Args:
        fits: Whether the program fits the memory that the compiler allows.
        peak_bytes_per_core, hbm_bytes_per_core: HBM at its fullest; HBM that the compiler allows.
        memory: Bytes by purpose; they add up to the peak, with the program beside it.
        model_flops: Analytic FLOPs of a step on one core (6·N·tokens plus whole-square attention).
        hardware_flops: Matrix-multiply FLOPs that the compiled program makes.
        dense_flops_ratio: Its FLOPs outside attention over 6·N·tokens: 1 when nothing is forgotten or done twice.
        hbm_traffic_bytes: Between HBM and a core in a step, loops counted as often as they run.
        all_reduce_bytes: What a core gives to all-reduces: one float32 gradient of every weight, and every weight anew
            where the slots are split over the replicas.
        compute_seconds, traffic_seconds: The two sides of the roofline.
        cycles_seconds: The compiler's cycles of all instructions, one after another, at the generation's clock.
        estimate_seconds: The compiler's own estimate, corrected for loops; where it cannot be true, ``cycles_seconds``.
        estimate_source: "compiler", or "cycles".
        tokens_per_second, mfu: Of the whole slice; share of peak by model FLOPs.
        hours, tokens: Of the whole schedule.
    """

    fits: bool
    peak_bytes_per_core: int
    hbm_bytes_per_core: int
    memory: dict[str, int]
    model_flops: float
    hardware_flops: float
    dense_flops_ratio: float | None
    hbm_traffic_bytes: float
    all_reduce_bytes: float
    compute_seconds: float
    traffic_seconds: float
    cycles_seconds: float
    estimate_seconds: float | None
    estimate_source: str
    tokens_per_second: float | None
    mfu: float | None
    hours: float | None
    tokens: int
    microbatch: int
    accumulation: int
    replicas: int
    compiled: Compiled

    def as_json(self) -> dict[str, Any]:
        """Returns all figures as plain values."""
        return dataclasses.asdict(self)


def figures(
    compiled: Compiled, *, model: Any, sizes: dict[str, int], plan: BatchPlan, steps: int, piece: Slice
) -> Figures:
    """Puts the compiler's answer beside what the model, the batch and the slice say.

    Args:
        compiled: The training step's program.
        model: The model's config, with a vocabulary size.
        sizes: Bytes of "weights" and "slots" that a core holds, and of the "all_reduce".
        plan: The batch arithmetic.
        steps: Optimizer steps of the schedule.
        piece: The slice.
    """
    limit = compiled.hbm_limit_bytes or round(piece.figures.usable_hbm_gib * GIB)
    tokens_per_core = plan.per_replica * plan.context
    model_flops = model.flops_per_token(plan.context) * tokens_per_core
    attention = 12.0 * model.layers * model.width * plan.context * tokens_per_core
    compute = compiled.flops / (piece.peak_tflops_per_core * 1e12)
    traffic = compiled.traffic_bytes / (piece.hbm_gbps_per_core * 1e9)
    cycles = compiled.cycles / (piece.figures.clock_ghz * 1e9)
    seconds, source = believed(compiled.compiler_seconds, max(compute, traffic), cycles)
    rate = plan.tokens_per_step / seconds if compiled.fits and seconds else None
    peak_flops = piece.peak_tflops_per_core * 1e12 * piece.cores
    return Figures(
        fits=compiled.fits,
        peak_bytes_per_core=compiled.peak_bytes,
        hbm_bytes_per_core=limit,
        memory=memory_by_purpose(compiled, sizes, plan),
        model_flops=model_flops,
        hardware_flops=compiled.flops,
        dense_flops_ratio=(compiled.flops - compiled.attention_flops) / (model_flops - attention)
        if compiled.fits
        else None,
        hbm_traffic_bytes=compiled.traffic_bytes,
        all_reduce_bytes=float(sizes["all_reduce"]),
        compute_seconds=compute,
        traffic_seconds=traffic,
        cycles_seconds=cycles,
        estimate_seconds=seconds if compiled.fits else None,
        estimate_source=source,
        tokens_per_second=rate,
        mfu=rate * model.flops_per_token(plan.context) / peak_flops if rate else None,
        hours=steps * seconds / 3600 if rate else None,
        tokens=steps * plan.tokens_per_step,
        microbatch=plan.microbatch,
        accumulation=plan.accumulation,
        replicas=plan.replicas,
        compiled=compiled,
    )


def believed(compiler_seconds: float | None, roofline: float, cycles: float) -> tuple[float, str]:
    """Returns the step's time and where it comes from.

    The compiler's estimate was seen to be negative, on v4 and v5e for whole models; below the roofline it is not
    believed either.
    """
    if compiler_seconds is None or compiler_seconds < roofline:
        return max(cycles, roofline), "cycles"
    return compiler_seconds, "compiler"


def memory_by_purpose(compiled: Compiled, sizes: dict[str, int], plan: BatchPlan) -> dict[str, int]:
    """Splits the peak: weights and slots are known, gradients are as large as the weights, activations are the rest."""
    batch = max(0, compiled.argument_bytes - sizes["weights"] - sizes["slots"])
    accumulators = sizes["weights"] if plan.accumulation > 1 else 0
    rest = compiled.peak_bytes - sizes["weights"] - sizes["slots"] - batch - accumulators
    return {
        "weights": sizes["weights"],
        "slots": sizes["slots"],
        "batch": batch if compiled.fits else 0,
        "accumulators": accumulators,
        "activations and gradients": max(0, rest),
        "program": compiled.program_bytes,
    }


def gib(size: float) -> str:
    """Formats bytes in GiB."""
    return f"{size / GIB:.2f}"


def report(found: Figures, title: str, piece: Slice) -> str:
    """Returns the text that the command line prints."""
    share = (
        f"{gib(found.peak_bytes_per_core)} GiB of {gib(found.hbm_bytes_per_core)} GiB that the compiler allows a core"
    )
    lines = [
        title,
        f"slice             {piece.name}: {piece.generation}, topology {piece.topology}, {piece.cores} cores, "
        f"{piece.hosts} hosts",
        f"batch             {plan_text(found)}",
        f"fits              {'yes' if found.fits else 'NO'}: {share}",
    ]
    lines += [f"  {purpose:<26} {gib(size):>7} GiB" for purpose, size in found.memory.items() if size]
    if not found.fits:
        lines.append("  (of a program that does not fit the compiler names no buffers; --search finds one that does)")
    else:
        lines += ["largest buffers   as the program makes them (they do not all live at once)"]
        lines += [f"  {gib(b.bytes):>7} GiB  {b.shape:<28} {b.op}" for b in found.compiled.largest[:8]]
        lines += _time_lines(found, piece)
    return "\n".join(lines)


def plan_text(found: Figures) -> str:
    """Says how the global batch is made up."""
    parts = {"replicas": found.replicas, "accumulation": found.accumulation, "microbatch": found.microbatch}
    total = found.replicas * found.accumulation * found.microbatch
    return f"{total} sequences = {' × '.join(f'{count} {name}' for name, count in parts.items())}"


def _time_lines(found: Figures, piece: Slice) -> list[str]:
    assert found.estimate_seconds and found.tokens_per_second and found.mfu and found.hours and found.dense_flops_ratio
    compiled = found.compiled
    source = "its cycles: the compiler's own estimate cannot be true"
    if found.estimate_source == "compiler":
        source = (
            f"the compiler's, from {compiled.compiler_optimal_seconds * 1e3:.1f} ms with a loop's body counted once"
        )
    lines = [
        f"FLOPs per core    model {found.model_flops:.3e}, hardware {found.hardware_flops:.3e}; "
        f"outside attention {found.dense_flops_ratio:.3f} of 6·N·tokens (what is above 1 is computed twice)",
        f"HBM traffic       {found.hbm_traffic_bytes / 1e9:.1f} GB per core and step "
        f"(the compiler says {compiled.compiler_traffic_bytes / 1e9:.1f}, counting a loop's body once)",
        f"all-reduce        {found.all_reduce_bytes / 1e9:.3f} GB per core and step",
        f"roofline          {max(found.compute_seconds, found.traffic_seconds) * 1e3:.1f} ms: arithmetic "
        f"{found.compute_seconds * 1e3:.1f} ms at {piece.peak_tflops_per_core:g} TFLOP/s, memory "
        f"{found.traffic_seconds * 1e3:.1f} ms at {piece.hbm_gbps_per_core:g} GB/s; assumes that both overlap fully "
        "and that the all-reduce and the input cost nothing more",
        f"cycles            {found.cycles_seconds * 1e3:.1f} ms: what the compiler expects of each instruction, one "
        f"after another at {piece.figures.clock_ghz:.2f} GHz",
        f"estimate          {found.estimate_seconds * 1e3:.1f} ms per step ({source})",
        f"rate              {found.tokens_per_second:,.0f} tokens/s, {100 * found.mfu:.1f} % of the slice's peak, "
        "by the estimate",
        f"schedule          {found.tokens:,} tokens in {found.hours:.1f} hours",
    ]
    if compiled.unknown_loops:
        lines.append(f"doubt             {compiled.unknown_loops} loops of unknown length are counted once")
    return lines
