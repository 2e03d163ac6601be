"""Costs of a compiled program's instructions: FLOPs, HBM traffic and the compiler's own estimate of cycles.

XLA's cost analysis counts the body of a loop once. Here every instruction counts as often as it runs;
``total(program, unroll=False)`` counts loops once, to compare with XLA.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.preflight.hlo import ARRAY, Computation, Instruction, Program, executed, trip_count

FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all"),
    *("optimization-barrier", "iota", "partition-id", "replica-id", "async-done", "all-reduce-done"),
    *("copy-done", "slice-done", "dynamic-slice-done"),
}
SLICES = {"dynamic-slice", "slice", "gather"}
KERNEL_FLOPS = re.compile(r'"cost_estimate":\{"flops":"(\d+)"')  # as stated by a Mosaic kernel's author
PREFETCHES = {"copy-start", "slice-start", "dynamic-slice-start"}


@dataclass
class Totals:
    """Costs of a program on one core.

    Args:
        matmul_flops: 2 × multiply-adds of matrix multiplications and convolutions.
        batched_flops: Those of batched multiplications and Mosaic kernels only, which here are attention's.
        kernel_flops: Those of Mosaic kernels, for which the compiler estimates no cycles.
        hbm_bytes: Read from and written to HBM.
        cycles: Sum of the compiler's own estimates.
        unknown_loops: Loops of unknown trip count, which are counted once.
    """

    matmul_flops: float = 0.0
    batched_flops: float = 0.0
    kernel_flops: float = 0.0
    hbm_bytes: float = 0.0
    cycles: float = 0.0
    unknown_loops: int = 0


def total(program: Program, unroll: bool = True) -> Totals:
    """Sums all costs; ``unroll=False`` counts loops' bodies once, as XLA's cost analysis does."""
    totals = Totals()
    for computation, instruction, times in executed(program, unroll):
        for inner, flops in _products(program, computation, instruction):
            totals.matmul_flops += times * flops
            totals.batched_flops += times * flops if _is_batched(inner) else 0.0
            totals.kernel_flops += times * flops if inner.opcode == "custom-call" else 0.0
        totals.hbm_bytes += times * hbm_bytes(program, computation, instruction)
        totals.cycles += times * instruction.estimated_cycles
        if instruction.opcode == "while" and trip_count(program, computation, instruction) is None:
            totals.unknown_loops += 1
    return totals


def matmul_flops(program: Program, computation: Computation, instruction: Instruction) -> float:
    """Returns the FLOPs of the matrix multiplications and convolutions in one run of an instruction."""
    return sum(flops for _, flops in _products(program, computation, instruction))


def _products(
    program: Program, computation: Computation, instruction: Instruction
) -> Iterator[tuple[Instruction, float]]:
    """Yields the multiplications in an instruction, with their FLOPs."""
    for where, inner in inside(program, computation, instruction):
        if count := {"dot": _dot, "convolution": _convolution, "custom-call": _kernel}.get(inner.opcode):
            yield inner, count(where, inner)


def inside(
    program: Program, computation: Computation, instruction: Instruction
) -> Iterator[tuple[Computation, Instruction]]:
    """Yields the instruction, or all instructions of a fusion."""
    if instruction.opcode not in ("fusion", "async-start") or not instruction.called:
        yield computation, instruction
        return
    for callee in instruction.called:
        inner = program.computations[callee]
        for fused in inner.instructions.values():
            yield from inside(program, inner, fused)


def _is_batched(instruction: Instruction) -> bool:
    """Whether a multiplication is a kernel's or has batch axes, which the TPU compiler writes as dilated windows."""
    written = ("lhs_batch_dims={", "lhs_dilate=")
    return instruction.opcode == "custom-call" or any(sign in instruction.rest for sign in written)


def _kernel(_: Computation, instruction: Instruction) -> float:
    stated = KERNEL_FLOPS.search(instruction.rest)
    return float(stated[1]) if stated else 0.0


def _dot(computation: Computation, instruction: Instruction) -> float:
    contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.rest)
    left = computation.instructions[instruction.operands[0]].arrays[0].dimensions
    depth = math.prod(left[int(axis)] for axis in contracted[1].split(",")) if contracted and contracted[1] else 1
    return 2.0 * math.prod(instruction.arrays[0].dimensions) * depth


def _convolution(computation: Computation, instruction: Instruction) -> float:
    """Returns 2 × outputs × input features of the kernel × window positions that overlap data.

    The TPU compiler writes a matrix multiplication over batched rows as a convolution over the batch's axes, so padded
    or dilated that most positions of a window overlap only padding.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.rest)
    assert labels, instruction.rest
    data, kernel = (computation.instructions[name].arrays[0].dimensions for name in instruction.operands[:2])
    result = instruction.arrays[0].dimensions
    window = re.search(r"window=\{([^}]*)\}", instruction.rest)
    settings = dict(part.split("=", 1) for part in window[1].split()) if window else {}
    flops = 2.0 * kernel[labels[2].index("i")]
    for label, length in zip(labels[3], result, strict=True):
        if label.isdigit():
            flops *= _overlaps(data[labels[1].index(label)], length, settings, int(label))
        else:
            flops *= length
    return flops


def _overlaps(length: int, outputs: int, window: dict[str, str], axis: int) -> int:
    """Counts, along one axis of a convolution, the pairs of an output and a window position that overlap an element.

    Args:
        length: Elements of the data, before padding and dilation.
        outputs: Elements of the result.
        window: The compiler's description of the window, like {"size": "4", "pad": "3_3"}; "x" separates axes.
        axis: Index of the window's axis.
    """

    def of(name: str, default: str) -> str:
        return window[name].split("x")[axis] if name in window else default

    size, stride = int(of("size", "1")), int(of("stride", "1"))
    data_step, kernel_step = int(of("lhs_dilate", "1")), int(of("rhs_dilate", "1"))
    before = int(of("pad", "0_0").split("_")[0])
    places = (output * stride - before + place * kernel_step for output in range(outputs) for place in range(size))
    return sum(0 <= place <= (length - 1) * data_step and place % data_step == 0 for place in places)


def hbm_bytes(program: Program, computation: Computation, instruction: Instruction) -> float:
    """Returns the bytes that an instruction moves between HBM and the core, operands and results."""
    if instruction.opcode in FREE or "AllocateBuffer" in instruction.rest:
        return 0.0
    operands = [computation.instructions[name] for name in instruction.operands if name in computation.instructions]
    if instruction.opcode in PREFETCHES:  # the result lists source and target; a slice's source is the whole array
        first, second = instruction.arrays[:2]
        return float(second.bytes * (first.in_hbm + second.in_hbm))
    if instruction.opcode in SLICES:
        return 2.0 * instruction.hbm_bytes
    if instruction.opcode == "dynamic-update-slice":
        return 2.0 * operands[1].hbm_bytes
    if instruction.opcode == "fusion":
        return _fusion_bytes(program.computations[instruction.called[0]], instruction, operands)
    return float(instruction.hbm_bytes + sum(operand.hbm_bytes for operand in operands))


def _fusion_bytes(inner: Computation, fusion: Instruction, operands: list[Instruction]) -> float:
    """Returns a fusion's bytes: a parameter that is only sliced costs its slices, an in-place update its update."""
    parameters: dict[int, Instruction] = {}
    users: dict[str, list[Instruction]] = {}
    for instruction in inner.instructions.values():
        if instruction.opcode == "parameter":
            parameters[int(instruction.argument)] = instruction
        for name in instruction.operands:
            users.setdefault(name, []).append(instruction)
    result = 0.0
    for position, operand in enumerate(operands):
        parameter = parameters.get(position)
        uses = _uses(parameter, users) if parameter else []
        if uses and all(use.opcode in SLICES for use in uses):
            result += min(operand.hbm_bytes, sum(use.hbm_bytes for use in uses)) if operand.hbm_bytes else 0
        elif not (uses and all(_updates(use, inner, parameters[position]) for use in uses)):
            result += operand.hbm_bytes
    updates = [i for i in inner.instructions.values() if i.opcode == "dynamic-update-slice"]
    in_place = sum(array.bytes for update in updates for array in update.arrays)
    written = sum(inner.instructions[u.operands[1]].hbm_bytes for u in updates if u.operands[1] in inner.instructions)
    return result + max(fusion.hbm_bytes - in_place, 0) + (written if fusion.hbm_bytes else 0)


def _updates(use: Instruction, inner: Computation, parameter: Instruction) -> bool:
    """Whether a use writes into the parameter's buffer, and so need not read it."""
    if use.opcode != "dynamic-update-slice":
        return False
    target = inner.instructions[use.operands[0]]
    while target.opcode == "bitcast":
        target = inner.instructions[target.operands[0]]
    return target is parameter


def _uses(parameter: Instruction, users: dict[str, list[Instruction]]) -> list[Instruction]:
    """Returns a parameter's uses, looking through bitcasts."""
    uses: list[Instruction] = []
    for user in users.get(parameter.name, []):
        uses += _uses(user, users) if user.opcode == "bitcast" else [user]
    return uses


def prefetches(program: Program) -> bool:
    """Whether the program prefetches data into memory on the core, as on v4 and later."""
    return any(instruction.opcode in PREFETCHES for _, instruction, _ in executed(program, unroll=False))


def costliest(program: Program, count: int) -> list[tuple[float, str, str]]:
    """Returns the instructions that move most bytes in total, as (bytes, op name, name), greatest first."""
    rows = [
        (times * hbm_bytes(program, computation, instruction), instruction.op_name, instruction.name)
        for computation, instruction, times in executed(program)
    ]
    return sorted(rows, reverse=True)[:count]


ARGUMENT = "XLA_Args"  # TensorFlow's name for every argument of the program


def _origin(computation: Computation, instruction: Instruction) -> str:
    """Returns an instruction's TensorFlow op; an instruction without one (a copy) has its operand's."""
    step: Instruction | None = instruction
    while step is not None and step.op_name == step.name and step.operands:
        step = computation.instructions.get(step.operands[0])
    if step is None or step.op_name == step.name:
        return instruction.name
    return "a weight or slot as it comes in" if step.op_name == ARGUMENT else step.op_name


def largest(program: Program, count: int = 12) -> list[tuple[int, str, str]]:
    """Returns the largest arrays that instructions create in HBM, as (bytes, shape, op name), each op's shape once."""
    sizes: dict[tuple[str, str], int] = {}
    for computation, instruction, _ in executed(program, unroll=False):
        if instruction.opcode in ("parameter", "tuple", "get-tuple-element", "while", "bitcast", "conditional"):
            continue
        for match, array in zip(ARRAY.finditer(instruction.shape), instruction.arrays, strict=True):
            if array.in_hbm:
                sizes[f"{match['type']}[{match['shape']}]", _origin(computation, instruction)] = array.bytes
    rows = [(size, shape, op) for (shape, op), size in sizes.items()]
    return sorted(rows, reverse=True)[:count]
