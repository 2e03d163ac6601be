"""Reads a compiled program's text (optimised HLO) and adds up what each instruction costs, loops included.

XLA's own cost analysis counts the body of a loop once. Here every instruction is counted as often as it runs: a loop's
body by the trip count that the compiler itself found ("known_trip_count"). Counting with all trips set to one gives the
compiler's convention back, so that the two can be compared (``Totals`` of ``total(program, unroll=False)``).

Light: imports neither TensorFlow nor JAX.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

ITEM_BYTES = {"pred": 1, "bf16": 2, "f16": 2, "f32": 4, "f64": 8, "c64": 8, "token": 0, "opaque": 0}
ARRAY = re.compile(r"(?P<type>[a-z]+\d*[a-z0-9]*)\[(?P<shape>[\d,<=]*)\](?:\{(?P<layout>[^}]*)\})?")
NAME = re.compile(r"%([\w.\-]+)")
CALLED = re.compile(r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%([\w.\-]+)")
BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
LOOP_CONDITION = re.compile(r"condition=%([\w.\-]+)")
TUPLE_INDEX = re.compile(r"index=(\d+)")
CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
OP_NAME = re.compile(r'op_name="([^"]*)"')
OUTSIDE_HBM = re.compile(r"S\([1-9]\d*\)")  # memory spaces other than 0 are on the core itself
FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all"),
    *("optimization-barrier", "iota", "partition-id", "replica-id", "copy-done", "async-done", "all-reduce-done"),
}
SLICES = {"dynamic-slice", "slice", "gather"}


@dataclass(frozen=True)
class Array:
    """One array of an instruction's result: its elements, bytes, and whether it lives in HBM."""

    dimensions: tuple[int, ...]
    bytes: int
    in_hbm: bool


@dataclass
class Instruction:
    """One instruction: the arrays of its result, what is between its parentheses, and the rest of its line."""

    name: str
    opcode: str
    shape: str
    arrays: list[Array]
    operands: list[str]
    argument: str
    rest: str
    is_root: bool

    @property
    def hbm_bytes(self) -> int:
        return sum(array.bytes for array in self.arrays if array.in_hbm)

    @property
    def op_name(self) -> str:
        """The TensorFlow op it comes from, with the name scopes around it."""
        match = OP_NAME.search(self.rest)
        return match[1] if match else self.name

    @property
    def estimated_cycles(self) -> int:
        match = CYCLES.search(self.rest)
        return int(match[1]) if match else 0

    @property
    def called(self) -> list[str]:
        branches = BRANCHES.search(self.rest)
        return CALLED.findall(self.rest) + (NAME.findall(branches[1]) if branches else [])


@dataclass
class Computation:
    """A named list of instructions."""

    name: str
    instructions: dict[str, Instruction] = field(default_factory=dict)

    @property
    def root(self) -> Instruction:
        return next(i for i in self.instructions.values() if i.is_root)


@dataclass
class Program:
    """All computations by name, and the name of the one that runs."""

    computations: dict[str, Computation]
    entry: str


@dataclass
class Totals:
    """What a program costs on one core.

    Args:
        matmul_flops: 2 × multiply-adds of matrix multiplications and convolutions.
        batched_flops: Those of batched multiplications alone, which in a transformer are attention's.
        hbm_bytes: Read from and written to HBM.
        cycles: The compiler's own estimates added up.
        unknown_loops: Loops whose trip count the compiler did not state; counted once.
    """

    matmul_flops: float = 0.0
    batched_flops: float = 0.0
    hbm_bytes: float = 0.0
    cycles: float = 0.0
    unknown_loops: int = 0


def parse(text: str) -> Program:
    """Parses the text of an HLO module as XLA prints it."""
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        if line.endswith("{") and line.startswith(("%", "ENTRY")):
            match = NAME.search(line)
            assert match, line
            current = computations[match[1]] = Computation(match[1])
            entry = match[1] if line.startswith("ENTRY") else entry
        elif current is not None and " = " in line:
            instruction = _instruction(line)
            current.instructions[instruction.name] = instruction
    return Program(computations, entry)


def _instruction(line: str) -> Instruction:
    left, right = line.split(" = ", 1)
    type_end = _balanced_end(right) if right.startswith("(") else right.index(" ")
    rest = right[type_end:].lstrip()
    open_paren = rest.index("(")
    close = open_paren + _balanced_end(rest[open_paren:])
    return Instruction(
        name=left.split("%")[-1].strip(),
        opcode=rest[:open_paren],
        shape=right[:type_end].strip(),
        arrays=[_array(match) for match in ARRAY.finditer(right[:type_end])],
        operands=NAME.findall(rest[open_paren:close]),
        argument=rest[open_paren + 1 : close - 1],
        rest=rest[close:],
        is_root=left.lstrip().startswith("ROOT"),
    )


def _balanced_end(text: str) -> int:
    depth = 0
    for position, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return position + 1
    raise ValueError(f"unbalanced parentheses in {text[:80]!r}")


def _array(match: re.Match) -> Array:
    dimensions = tuple(int(length.lstrip("<=")) for length in match["shape"].split(",") if length)
    size = ITEM_BYTES.get(match["type"])
    if size is None:
        bits = int(re.sub(r"\D", "", match["type"].split("e")[0]) or 8)
        size = max(1, bits // 8)
    for length in dimensions:
        size *= length
    return Array(dimensions, size, not OUTSIDE_HBM.search(match["layout"] or ""))


def executed(program: Program, unroll: bool = True) -> Iterator[tuple[Computation, Instruction, float]]:
    """Yields every instruction that the core runs (a fusion is one), with how often it runs.

    Of a conditional's branches the costliest counts, by instructions.
    """
    pending = [(program.entry, 1.0)]
    while pending:
        name, times = pending.pop()
        computation = program.computations[name]
        for instruction in computation.instructions.values():
            yield computation, instruction, times
            if instruction.opcode == "while":
                trips = trip_count(program, computation, instruction) if unroll else 1
                pending.extend((callee, times * (trips or 1)) for callee in instruction.called)
            elif instruction.opcode == "conditional":
                pending.append(
                    (max(instruction.called, key=lambda c: len(program.computations[c].instructions)), times)
                )
            elif instruction.opcode in ("call", "async-start"):
                pending.extend((callee, times) for callee in instruction.called)


def trip_count(program: Program, computation: Computation, loop: Instruction) -> int | None:
    """Returns how often a loop's body runs, or None where that cannot be read off.

    Either the compiler states it, or the loop counts from 0 by ones while "counter < limit", limit being a constant.
    """
    if match := TRIPS.search(loop.rest):
        return int(match[1])
    condition = program.computations[LOOP_CONDITION.findall(loop.rest)[0]]
    test = condition.root
    if test.opcode == "fusion":  # the comparison alone, wrapped
        inner = program.computations[test.called[0]]
        arguments = [condition.instructions[name] for name in test.operands]
        compare = inner.root
        sides = [_argument_of(inner, name, arguments) for name in compare.operands]
    else:
        compare, sides = test, [condition.instructions[name] for name in test.operands]
    if compare.opcode != "compare" or "direction=LT" not in compare.rest or len(sides) != 2:
        return None
    counter, limit = sides
    if counter.opcode != "get-tuple-element" or limit.opcode != "constant":
        return None
    index = TUPLE_INDEX.findall(counter.rest)[0]
    start = _tuple_element(computation, loop.operands[0], int(index))
    if start is None or start.opcode != "constant" or start.argument != "0":
        return None
    return int(limit.argument)


def _argument_of(inner: Computation, name: str, arguments: list[Instruction]) -> Instruction:
    """Returns the instruction outside a fusion that a name inside it stands for, or the one inside."""
    instruction = inner.instructions[name]
    return arguments[int(instruction.argument)] if instruction.opcode == "parameter" else instruction


def _tuple_element(computation: Computation, name: str, index: int) -> Instruction | None:
    """Returns what a tuple holds at an index, looking through copies."""
    held = computation.instructions.get(name)
    if held is None or held.opcode != "tuple":
        return None
    element: Instruction | None = computation.instructions[held.operands[index]]
    while element is not None and element.opcode in ("copy", "bitcast"):
        element = computation.instructions.get(element.operands[0])
    return element


def total(program: Program, unroll: bool = True) -> Totals:
    """Adds everything up; ``unroll=False`` counts loops' bodies once, as XLA's cost analysis does."""
    totals = Totals()
    for computation, instruction, times in executed(program, unroll):
        for where, inner in _inside(program, computation, instruction):
            flops = times * _one_matmul(where, inner)
            totals.matmul_flops += flops
            totals.batched_flops += flops if _is_batched(inner) else 0.0
        totals.hbm_bytes += times * hbm_bytes(program, computation, instruction)
        totals.cycles += times * instruction.estimated_cycles
        if instruction.opcode == "while" and trip_count(program, computation, instruction) is None:
            totals.unknown_loops += 1
    return totals


def _inside(
    program: Program, computation: Computation, instruction: Instruction
) -> Iterator[tuple[Computation, Instruction]]:
    """Yields the instruction, or for a fusion all that is fused into it."""
    if instruction.opcode not in ("fusion", "async-start") or not instruction.called:
        yield computation, instruction
        return
    for callee in instruction.called:
        inner = program.computations[callee]
        for fused in inner.instructions.values():
            yield from _inside(program, inner, fused)


def _one_matmul(computation: Computation, instruction: Instruction) -> float:
    if instruction.opcode == "dot":
        return _dot(computation, instruction)
    if instruction.opcode == "convolution":
        return _convolution(computation, instruction)
    return 0.0


def _is_batched(instruction: Instruction) -> bool:
    """Whether a multiplication has batch axes; the TPU compiler writes these as dilated windows."""
    return "lhs_batch_dims={" in instruction.rest or "lhs_dilate=" in instruction.rest


def _product(lengths) -> float:
    result = 1.0
    for length in lengths:
        result *= length
    return result


def _dot(computation: Computation, instruction: Instruction) -> float:
    contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.rest)
    left = computation.instructions[instruction.operands[0]].arrays[0].dimensions
    depth = _product(left[int(axis)] for axis in contracted[1].split(",")) if contracted and contracted[1] else 1.0
    return 2.0 * _product(instruction.arrays[0].dimensions) * depth


def _convolution(computation: Computation, instruction: Instruction) -> float:
    """2 × outputs × input features of the kernel × window positions that hold data.

    The TPU compiler writes a batched matrix multiplication as a convolution over the batch's axes whose input is
    dilated so far that every window touches one element: there the window counts once.
    """
    labels = re.search(r"dim_labels=\w+_(\w+)->", instruction.rest)
    kernel = computation.instructions[instruction.operands[1]].arrays[0].dimensions
    assert labels, instruction.rest
    depth = kernel[labels[1].index("i")]
    window = re.search(r"window=\{([^}]*)\}", instruction.rest)
    settings = dict(part.split("=", 1) for part in window[1].split()) if window else {}
    sizes = [int(size) for size in settings.get("size", "").split("x") if size]
    dilation = [int(size) for size in settings.get("lhs_dilate", "").split("x") if size] or [1] * len(sizes)
    positions = _product(max(1.0, size / dilate) for size, dilate in zip(sizes, dilation, strict=True))
    return 2.0 * _product(instruction.arrays[0].dimensions) * depth * positions


def hbm_bytes(program: Program, computation: Computation, instruction: Instruction) -> float:
    """Returns the bytes that an instruction moves between HBM and the core, operands and results."""
    if instruction.opcode in FREE or "AllocateBuffer" in instruction.rest:
        return 0.0
    operands = [computation.instructions[name] for name in instruction.operands if name in computation.instructions]
    if instruction.opcode in SLICES:
        return 2.0 * instruction.hbm_bytes
    if instruction.opcode == "dynamic-update-slice":
        return 2.0 * operands[1].hbm_bytes
    if instruction.opcode == "fusion":
        return _fusion_bytes(program.computations[instruction.called[0]], instruction, operands)
    return float(instruction.hbm_bytes + sum(operand.hbm_bytes for operand in operands))


def _fusion_bytes(inner: Computation, fusion: Instruction, operands: list[Instruction]) -> float:
    """A parameter that is only sliced costs its slices; a buffer that is updated in place costs the update."""
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
    """Whether a use writes into the parameter's buffer, which it then need not read."""
    if use.opcode != "dynamic-update-slice":
        return False
    target = inner.instructions[use.operands[0]]
    while target.opcode == "bitcast":
        target = inner.instructions[target.operands[0]]
    return target is parameter


def _uses(parameter: Instruction, users: dict[str, list[Instruction]]) -> list[Instruction]:
    """Returns what uses a parameter, looking through bitcasts."""
    uses: list[Instruction] = []
    for user in users.get(parameter.name, []):
        uses += _uses(user, users) if user.opcode == "bitcast" else [user]
    return uses


def costliest(
    program: Program, cost: Callable[[Program, Computation, Instruction], float], count: int = 20
) -> list[tuple[float, str, str]]:
    """Returns the instructions that cost most in all, as (cost, op name, opcode and shape), greatest first."""
    rows = [
        (times * cost(program, computation, instruction), instruction.op_name, instruction.name)
        for computation, instruction, times in executed(program)
    ]
    return sorted(rows, reverse=True)[:count]


def largest(program: Program, count: int = 12) -> list[tuple[int, str, str]]:
    """Returns the largest arrays that instructions make in HBM, as (bytes, shape, op name), each op's shape once."""
    found: dict[tuple[str, str], int] = {}
    for _, instruction, _ in executed(program, unroll=False):
        if instruction.opcode in ("parameter", "tuple", "get-tuple-element", "while", "bitcast", "conditional"):
            continue
        for match, array in zip(ARRAY.finditer(instruction.shape), instruction.arrays, strict=True):
            if array.in_hbm:
                found[f"{match['type']}[{match['shape']}]", instruction.op_name] = array.bytes
    rows = [(size, shape, op) for (shape, op), size in found.items()]
    return sorted(rows, reverse=True)[:count]
