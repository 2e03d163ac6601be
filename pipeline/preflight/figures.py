"""Turns the TPU compiler's figures for a program into a report: fits, memory, time, tokens, hours.

Plain arithmetic on pipeline.preflight.compiled.Compiled; imports neither TensorFlow nor Keras.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

from models.config import GPT2Config
from pipeline.config.attention_path import AttentionPath
from pipeline.config.batch_plan import BatchPlan
from pipeline.devices.slices import Slice
from pipeline.preflight.compiled import GIB, Compiled


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One training step of one replica on one core, and the whole run.

    Args:
        fits: Whether the program fits the memory that the compiler allows.
        peak_bytes_per_core, hbm_bytes_per_core: Peak HBM; HBM that the compiler allows.
        memory: Bytes by purpose; all but "program" add up to the peak.
        model_flops: Analytic FLOPs of a step on one core (6·N·tokens plus whole-square attention).
        hardware_flops: Matrix-multiply FLOPs of the compiled program.
        dense_flops_ratio: Its FLOPs outside attention over 6·N·tokens: 1 if nothing is missing or done twice.
        hbm_traffic_bytes: Between HBM and a core in a step; loops count as often as they run.
        all_reduce_bytes: A core's input to all-reduces: one float32 gradient of every weight, plus every new weight if
            the slots are sharded across the replicas.
        compute_seconds, traffic_seconds: The two sides of the roofline.
        cycles_seconds: The compiler's cycles, summed over all instructions, at the generation's clock; for the fused
            kernels their FLOPs at the peak, or at a share of it for heads narrower than the matrix unit.
        estimate_seconds: The compiler's own estimate, corrected for loops; ``cycles_seconds`` if it is impossible.
        estimate_source: "compiler", or "cycles".
        tokens_per_second, mfu: Of the whole slice; MFU is the share of peak by model FLOPs.
        hours, tokens: Of the whole schedule.
        attention, attention_reason: "fused" or "plain", and why.
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
    attention: str
    attention_reason: str
    compiled: Compiled

    def as_json(self) -> dict[str, Any]:
        """Returns all figures as plain values."""
        return dataclasses.asdict(self)


def figures(
    compiled: Compiled,
    *,
    model: GPT2Config,
    sizes: dict[str, int],
    plan: BatchPlan,
    steps: int,
    piece: Slice,
    attention: AttentionPath,
) -> Figures:
    """Combines the compiler's figures for the training step with those of the model, the batch and the slice.

    ``sizes`` are bytes: a core's "weights" and "slots", and "all_reduce". The model must have a vocabulary size.
    """
    limit = compiled.hbm_limit_bytes or round(piece.specs.usable_hbm_gib * GIB)
    tokens_per_core = plan.per_replica * plan.context
    model_flops = model.flops_per_token(plan.context) * tokens_per_core
    square = 12.0 * model.layers * model.width * plan.context * tokens_per_core
    dense = (compiled.flops - compiled.attention_flops) / (model_flops - square)
    compute = compiled.flops / (piece.specs.peak_tflops * 1e12)
    traffic = compiled.traffic_bytes / (piece.specs.hbm_gbps * 1e9)
    share = min(1.0, model.head_width / piece.specs.matrix_unit)  # share of the unit that a head fills
    kernels = compiled.kernel_flops / (piece.specs.peak_tflops * 1e12 * share)
    cycles = compiled.cycles / (piece.specs.clock_ghz * 1e9) + kernels
    seconds, source = step_time(compiled.compiler_seconds, max(compute, traffic), cycles)
    rate = plan.tokens_per_step / seconds if compiled.fits and seconds else None
    peak_flops = piece.specs.peak_tflops * 1e12 * piece.cores
    return Figures(
        fits=compiled.fits,
        peak_bytes_per_core=compiled.peak_bytes,
        hbm_bytes_per_core=limit,
        memory=memory_by_purpose(compiled, sizes, plan),
        model_flops=model_flops,
        hardware_flops=compiled.flops,
        dense_flops_ratio=dense if compiled.fits else None,
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
        attention=attention.name,
        attention_reason=attention.reason,
        compiled=compiled,
    )


def step_time(compiler_seconds: float | None, roofline: float, cycles: float) -> tuple[float, str]:
    """Returns the step's estimated time and the source of the estimate.

    The compiler's estimate can be negative (seen on v4 and v5e for whole models), or above the sum of its own cycles
    (v5p). One that is not between the roofline and the cycles is ignored.
    """
    slowest = max(cycles, roofline)
    if compiler_seconds is None or not roofline <= compiler_seconds <= slowest:
        return slowest, "cycles"
    return compiler_seconds, "compiler"


def memory_by_purpose(compiled: Compiled, sizes: dict[str, int], plan: BatchPlan) -> dict[str, int]:
    """Splits the peak by purpose: accumulators are as large as the weights; activations and gradients are the rest."""
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


def report(result: Figures, title: str, piece: Slice) -> str:
    """Returns the text that the commands print."""
    fits, peak, limit = "yes" if result.fits else "NO", gib(result.peak_bytes_per_core), gib(result.hbm_bytes_per_core)
    lines = [
        title,
        f"slice             {piece.name}: {piece.generation}, topology {piece.topology}, {piece.cores} cores, "
        f"{piece.hosts} hosts",
        f"batch             {result.replicas * result.accumulation * result.microbatch} sequences = "
        f"{result.replicas} replicas × {result.accumulation} accumulation × {result.microbatch} microbatch",
        f"attention         {result.attention}: {result.attention_reason}",
        f"fits              {fits}: {peak} GiB of {limit} GiB that the compiler allows a core",
    ]
    lines += [f"  {purpose:<26} {gib(size):>7} GiB" for purpose, size in result.memory.items() if size]
    if not result.fits:
        lines += ["  (the compiler names no buffers of a program that does not fit; --search finds one that does)"]
        return "\n".join(lines)
    lines += ["largest buffers   as the program creates them (not all at the same time)"]
    lines += [f"  {gib(b.bytes):>7} GiB  {b.shape:<28} {b.op}" for b in result.compiled.largest[:8]]
    return "\n".join(lines + _time_lines(result, piece))


def _time_lines(result: Figures, piece: Slice) -> list[str]:
    assert result.estimate_seconds and result.tokens_per_second and result.mfu and result.hours
    assert result.dense_flops_ratio
    compiled = result.compiled
    source = f"the compiler's, from {compiled.compiler_optimal_seconds * 1e3:.1f} ms with a loop's body counted once"
    if result.estimate_source != "compiler":
        source = "its cycles: the compiler's own estimate is impossible"
    lines = [
        f"FLOPs per core    model {result.model_flops:.3e}, hardware {result.hardware_flops:.3e}; "
        f"outside attention {result.dense_flops_ratio:.3f} of 6·N·tokens (what is above 1 is computed twice)",
        f"HBM traffic       {result.hbm_traffic_bytes / 1e9:.1f} GB per core and step "
        f"(the compiler says {compiled.compiler_traffic_bytes / 1e9:.1f}, counting a loop's body once)",
        f"all-reduce        {result.all_reduce_bytes / 1e9:.3f} GB per core and step",
        f"roofline          {max(result.compute_seconds, result.traffic_seconds) * 1e3:.1f} ms: arithmetic "
        f"{result.compute_seconds * 1e3:.1f} ms at {piece.specs.peak_tflops:g} TFLOP/s, memory "
        f"{result.traffic_seconds * 1e3:.1f} ms at {piece.specs.hbm_gbps:g} GB/s; assumes that both overlap fully "
        "and that the all-reduce and the input cost nothing more",
        f"cycles            {result.cycles_seconds * 1e3:.1f} ms: what the compiler expects of each instruction, one "
        f"after another at {piece.specs.clock_ghz:.2f} GHz",
        f"estimate          {result.estimate_seconds * 1e3:.1f} ms per step ({source})",
        f"rate              {result.tokens_per_second:,.0f} tokens/s, {100 * result.mfu:.1f} % of the slice's peak, "
        "by the estimate",
        f"schedule          {result.tokens:,} tokens in {result.hours:.1f} hours",
    ]
    if compiled.unknown_loops:
        lines.append(f"doubt             {compiled.unknown_loops} loops of unknown length are counted once")
    return lines
