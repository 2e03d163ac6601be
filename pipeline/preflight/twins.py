"""Finds a compiled program's instructions with the same code, since libtpu emits and dumps equal ones once.

Imports neither TensorFlow nor JAX.
"""

import hashlib
import re

from pipeline.preflight.hlo import NAME, Computation, Instruction, Program

METADATA = re.compile(r", metadata=\{[^}]*\}")
WINDOW = re.compile(r'"window_config":(\{[^}]*\})')
CONFIG = re.compile(r", backend_config=.*")
CUSTOM_CALL = re.compile(r', custom_call_config|"custom_call_config":.*')


class Signatures:
    """Signatures of the instructions of one program: equal if the compiler emits the same code for them."""

    def __init__(self, program: Program) -> None:
        """Takes the program whose computations the instructions call."""
        self.program = program
        self.bodies: dict[str, str] = {}

    def of(self, computation: Computation, instruction: Instruction) -> str:
        """Returns an instruction's signature in a computation: what it computes, with which shapes, where."""
        operands = [self._shape(computation, name) for name in instruction.operands]
        return _hash([instruction.opcode, instruction.shape, *operands, self._rest(instruction)])

    def _rest(self, instruction: Instruction) -> str:
        """Returns an instruction's attributes, with called computations in place of names."""
        window = WINDOW.search(instruction.rest)
        called = [self._body(name) for name in instruction.called]
        attributes = NAME.sub("%", CONFIG.sub("", METADATA.sub("", instruction.rest)))
        kernel = CUSTOM_CALL.search(instruction.rest) if instruction.opcode == "custom-call" else None
        return "|".join([attributes, window[1] if window else "", kernel[0] if kernel else "", *called])

    def _body(self, name: str) -> str:
        """Returns a computation's signature, in which instructions are identified by position."""
        if name not in self.bodies:
            places: dict[str, int] = {}
            lines = []
            for instruction in self.program.computations[name].instructions.values():
                places[instruction.name] = len(places)
                operands = [str(places.get(operand, operand)) for operand in instruction.operands]
                argument = "" if instruction.operands else instruction.argument
                lines += [instruction.opcode, instruction.shape, *operands, argument, self._rest(instruction)]
            self.bodies[name] = _hash(lines)
        return self.bodies[name]

    def _shape(self, computation: Computation, name: str) -> str:
        operand = computation.instructions.get(name)
        return operand.shape if operand else ""


def _hash(parts: list[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
