"""Reads a compiled program's text (optimized HLO): its computations, and how often each instruction runs.

A loop's body runs as often as the compiler states ("known_trip_count") or as its condition implies. Imports neither
TensorFlow nor JAX. hlo_costs.py has the costs of instructions.
"""

import math
import re
from collections.abc import Iterator
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


@dataclass(frozen=True)
class Array:
    """One array of an instruction's result: its dimensions, bytes, and whether it is in HBM."""

    dimensions: tuple[int, ...]
    bytes: int
    in_hbm: bool


@dataclass
class Instruction:
    """One instruction: the arrays of its result, the text in its parentheses, and the rest of its line."""

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
        """Bytes of its results in HBM."""
        return sum(array.bytes for array in self.arrays if array.in_hbm)

    @property
    def op_name(self) -> str:
        """Its TensorFlow op, with name scopes."""
        match = OP_NAME.search(self.rest)
        return match[1] if match else self.name

    @property
    def estimated_cycles(self) -> int:
        """The compiler's estimate; 0 if it has none."""
        match = CYCLES.search(self.rest)
        return int(match[1]) if match else 0

    @property
    def called(self) -> list[str]:
        """Names of the computations that it calls."""
        branches = BRANCHES.search(self.rest)
        return CALLED.findall(self.rest) + (NAME.findall(branches[1]) if branches else [])


@dataclass
class Computation:
    """A named list of instructions."""

    name: str
    instructions: dict[str, Instruction] = field(default_factory=dict)

    @property
    def root(self) -> Instruction:
        """The instruction that gives the computation's result."""
        return next(i for i in self.instructions.values() if i.is_root)


@dataclass
class Program:
    """All computations by name, and the name of the one that runs."""

    computations: dict[str, Computation]
    entry: str


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
        size = max(1, int(re.sub(r"\D", "", match["type"].split("e")[0]) or 8) // 8)
    return Array(dimensions, size * math.prod(dimensions), not OUTSIDE_HBM.search(match["layout"] or ""))


def executed(program: Program, unroll: bool = True) -> Iterator[tuple[Computation, Instruction, float]]:
    """Yields every instruction that the core runs (a fusion is one), and how often.

    Of a conditional's branches, only the one with the most instructions counts.
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
                longest = max(instruction.called, key=lambda c: len(program.computations[c].instructions))
                pending.append((longest, times))
            elif instruction.opcode in ("call", "async-start"):
                pending.extend((callee, times) for callee in instruction.called)


def trip_count(program: Program, computation: Computation, loop: Instruction) -> int | None:
    """Returns how often a loop's body runs, or None if unknown.

    Either the compiler states it, or the loop counts up from 0 while "counter < limit" for a constant limit.
    """
    if match := TRIPS.search(loop.rest):
        return int(match[1])
    condition = program.computations[LOOP_CONDITION.findall(loop.rest)[0]]
    test = condition.root
    if test.opcode == "fusion":  # the comparison alone, wrapped
        inner = program.computations[test.called[0]]
        arguments = [condition.instructions[name] for name in test.operands]
        compare, sides = inner.root, [inner.instructions[name] for name in inner.root.operands]
        sides = [arguments[int(side.argument)] if side.opcode == "parameter" else side for side in sides]
    else:
        compare, sides = test, [condition.instructions[name] for name in test.operands]
    if compare.opcode != "compare" or "direction=LT" not in compare.rest or len(sides) != 2:
        return None
    counter, limit = sides
    if counter.opcode != "get-tuple-element" or limit.opcode != "constant":
        return None
    start = _tuple_element(computation, loop.operands[0], int(TUPLE_INDEX.findall(counter.rest)[0]))
    if start is None or start.opcode != "constant" or start.argument != "0":
        return None
    return int(limit.argument)


def _tuple_element(computation: Computation, name: str, index: int) -> Instruction | None:
    """Returns a tuple's element at an index, looking through copies."""
    values = computation.instructions.get(name)
    if values is None or values.opcode != "tuple":
        return None
    element: Instruction | None = computation.instructions[values.operands[index]]
    while element is not None and element.opcode in ("copy", "bitcast"):
        element = computation.instructions.get(element.operands[0])
    return element
