"""The TPU compiler's figures of one program; imports neither TensorFlow nor JAX."""

from dataclasses import dataclass, field

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Buffer:
    """One large array in HBM: its bytes, its shape as the compiler writes it, and the op that creates it."""

    bytes: int
    shape: str
    op: str


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """Instructions of one part of the model for which the compiler emitted the same code.

    Args:
        name: One of the instructions.
        part: Of the model, as schedule.py names them.
        op: Its TensorFlow op.
        runs: How often they run in a step, in total.
        bundles: VLIW bundles of one run, about one per cycle.
        busy: By unit of the core, the share of its slots that the bundles use.
        hbm_bytes: Between HBM and the core in one run.
        flops: Of matrix multiplications in one run.
        cycles: The compiler's estimate of one run; 0 where it has none.
        uncounted_loops: Loops of unknown length in it, which count once.
    """

    name: str
    part: str
    op: str
    runs: float
    bundles: float
    busy: dict[str, float] = field(default_factory=dict)
    hbm_bytes: float = 0.0
    flops: float = 0.0
    cycles: float = 0.0
    uncounted_loops: int = 0


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """The TPU compiler's figures of one program on one core.

    Args:
        fits: Whether it compiled within the memory that the compiler allows.
        peak_bytes: Peak HBM, including arguments; if it does not fit, the HBM that it would need.
        hbm_limit_bytes: HBM that the compiler allows; 0 if it did not say.
        argument_bytes: Weights, slots and the batch.
        program_bytes: Instructions.
        flops: Matrix-multiply FLOPs; loops count as often as they run.
        attention_flops: Those of batched multiplications, which are attention's; part of ``flops``.
        kernel_flops: Those of the fused attention kernels; part of ``attention_flops``.
        traffic_bytes: Between HBM and the core; loops count likewise.
        cycles: Sum of the compiler's estimates for all instructions but the kernels; loops count likewise.
        compiler_seconds: The compiler's ``optimal_seconds``, corrected for loops; None if it is not plausible.
        compiler_flops, compiler_traffic_bytes, compiler_optimal_seconds: As the compiler prints them.
        once_traffic_bytes: Our own count with loops counted once, to compare with the compiler's.
        unknown_loops: Loops of unknown trip count, which are counted once.
        largest: The largest buffers, greatest first.
        costliest: Bytes moved by op, greatest first.
        compile_seconds: How long the compiler took.
        kernels: Its schedule, if it was asked for.
    """

    fits: bool
    peak_bytes: int
    hbm_limit_bytes: int = 0
    argument_bytes: int = 0
    program_bytes: int = 0
    flops: float = 0.0
    attention_flops: float = 0.0
    kernel_flops: float = 0.0
    traffic_bytes: float = 0.0
    cycles: float = 0.0
    compiler_seconds: float | None = None
    compiler_flops: float = 0.0
    compiler_traffic_bytes: float = 0.0
    compiler_optimal_seconds: float = 0.0
    once_traffic_bytes: float = 0.0
    unknown_loops: int = 0
    largest: tuple[Buffer, ...] = ()
    costliest: tuple[tuple[float, str, str], ...] = ()
    compile_seconds: float = 0.0
    kernels: tuple[Kernel, ...] = ()
