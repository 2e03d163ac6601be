"""Reads a compiled program's schedule from libtpu's dump: each kernel's bundles, and how often it runs.

A kernel is a fusion, a Mosaic kernel or another instruction with its own code. Imports neither TensorFlow nor JAX.
"""

import dataclasses
import math
import os
import pathlib
import re
import tempfile
from collections.abc import Iterator
from typing import Any

from pipeline.preflight import bundles, hlo, libtpu_process
from pipeline.preflight.compiled import Compiled, Kernel
from pipeline.preflight.hlo import Computation, Instruction, Program, executed
from pipeline.preflight.hlo_costs import ARGUMENT, FREE, hbm_bytes, inside, matmul_flops
from pipeline.preflight.twins import Signatures

PARTS = ("attention", "mlp", "norms", "loss", "embedding", "update", "collectives", "copies", "control")
COLLECTIVES = re.compile(r"all-reduce|reduce-scatter|all-gather|collective-permute|all-to-all")
COPIES = re.compile(r"copy|slice|dynamic-slice|transpose|bitcast")
TABLE_ROWS = re.compile(r"gather|scatter")  # the rows of the token table, and their gradient
STEPS = re.compile(r'"iteration_bounds":\[([^\]]*)\]')
SUBLAYER = re.compile(r"attention|mlp")  # or "attention_gradient"
STATISTICS = re.compile(r"(Mean|Sum|SquaredDifference|Rsqrt)(_\d+)?$")  # of a layer norm, within its sublayer's scope
CONTROL = "TLP"  # libtpu's name for the program that starts the kernels


def compile_program(module: bytes, *, keep_text: pathlib.Path | None, **how: Any) -> Compiled:
    """Does the same as ``libtpu_process.compile_program`` before libtpu is loaded, and adds the kernels.

    libtpu dumps a few hundred megabytes of code to a temporary folder.
    """
    with tempfile.TemporaryDirectory() as folder:
        dump, text = pathlib.Path(folder, "dump"), keep_text or pathlib.Path(folder, "program.txt")
        dump.mkdir()
        settings = [os.environ.get("LIBTPU_INIT_ARGS", ""), bundles.FLAGS.format(folder=dump)]
        os.environ["LIBTPU_INIT_ARGS"] = " ".join(settings).strip()
        compiled = libtpu_process.compile_program(module, keep_text=text, **how)
        if not compiled.fits:
            return compiled
        found = kernels(hlo.parse(text.read_text(encoding="utf-8")), dump)
    return dataclasses.replace(compiled, kernels=found)


def kernels(program: Program, folder: pathlib.Path) -> tuple[Kernel, ...]:
    """Returns the kernels of a program dumped to a folder, those with the most bundles in total first."""
    files = bundles.dumped(folder)
    runs: dict[tuple[str, str], float] = {}
    first: dict[tuple[str, str], tuple[Computation, Instruction]] = {}
    emitted: dict[str, str] = {}  # the dumped code's name, by signature
    signatures = Signatures(program)
    for computation, instruction, times in executed(program):
        if instruction.opcode in FREE:
            continue
        signature = signatures.of(computation, instruction)
        key = signature, part_of(program, computation, instruction)
        runs[key] = runs.get(key, 0.0) + times
        first.setdefault(key, (computation, instruction))
        if instruction.name in files:
            emitted[signature] = instruction.name
    found = [
        _kernel(program, *first[key], key[1], times, files.get(emitted.get(key[0], ""))) for key, times in runs.items()
    ]
    return tuple(sorted((*found, *_control(files)), key=lambda kernel: -kernel.runs * kernel.bundles))


def _kernel(
    program: Program,
    computation: Computation,
    instruction: Instruction,
    part: str,
    runs: float,
    files: bundles.Files | None,
) -> Kernel:
    """Returns a kernel; one that was not dumped (a background copy) runs no bundles of its own."""
    read = bundles.read(files, steps(instruction)) if files else None
    return Kernel(
        name=instruction.name,
        part=part,
        op=instruction.op_name,
        runs=runs,
        bundles=read.executed if read else 0.0,
        busy=read.busy if read else {},
        hbm_bytes=hbm_bytes(program, computation, instruction),
        flops=matmul_flops(program, computation, instruction),
        cycles=instruction.estimated_cycles,
        uncounted_loops=read.uncounted_loops if read else 0,
    )


def _control(files: dict[str, bundles.Files]) -> Iterator[Kernel]:
    if CONTROL in files:
        read = bundles.read(files[CONTROL])
        yield Kernel(name=CONTROL, part="control", op="", runs=1, bundles=read.executed, busy=read.busy)


def steps(instruction: Instruction) -> int | None:
    """Returns the number of blocks in a fusion's loop, if the compiler states it."""
    bounds = STEPS.search(instruction.rest)
    return math.prod(int(bound) for bound in re.findall(r"\d+", bounds[1])) if bounds else None


def part_of(program: Program, computation: Computation, instruction: Instruction) -> str:
    """Returns an instruction's part of the model, by the op at its root, or by a collective in it."""
    scopes = instruction.op_name.split("/")
    if any(COLLECTIVES.match(inner.opcode) for _, inner in inside(program, computation, instruction)):
        return "collectives"
    if instruction.op_name in (instruction.name, ARGUMENT) and COPIES.match(instruction.opcode):
        return "copies"
    if TABLE_ROWS.match(instruction.name):
        return "embedding"
    if scopes[0] == "cond" or len(scopes) == 1:  # the update, and the gradients' norm, which decides on it
        return "update"
    for scope in scopes:
        if sublayer := SUBLAYER.match(scope):
            statistics = STATISTICS.fullmatch(scopes[-1]) and _rank(computation, instruction) < 4
            return "norms" if statistics else sublayer[0]
        if scope in ("loss", "embedding"):
            return scope
        if "norm" in scope:
            return "norms"
    return "update"


def _rank(computation: Computation, instruction: Instruction) -> int:
    """Returns the most axes of an instruction's arrays: four in attention, which has heads, three elsewhere."""
    operands = [computation.instructions[name] for name in instruction.operands if name in computation.instructions]
    return max((len(array.dimensions) for i in (instruction, *operands) for array in i.arrays), default=0)
