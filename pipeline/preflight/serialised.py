"""Reads the optimized module from a program that libtpu serialized, if JAX's own reader rejects it.

For v6e, libtpu 0.0.52 writes an "async-update" with several operands; jax 0.10.2's XLA accepts only one. The figures
need only the first. The serialized program is a Riegeli file, whose blocks of 64 KiB begin with a header of 24 bytes
(https://github.com/google/riegeli/blob/master/doc/riegeli_records_file_format.md); libtpu does not compress it. Fields
are numbered as in XLA's hlo.proto (https://github.com/openxla/xla/blob/main/xla/service/hlo.proto). Imports neither
TensorFlow nor JAX.
"""

import re
from collections.abc import Callable, Iterator

SIGNATURE = bytes.fromhex("83af70d10d884a3f")  # of a Riegeli file, in its first chunk header
BLOCK, BLOCK_HEADER = 2**16, 24
NAME, COMPUTATIONS = 1, 3  # of HloModuleProto
INSTRUCTIONS = 2  # of HloComputationProto
OPCODE, OPERANDS = 2, 36  # of HloInstructionProto
BYTES = 2  # the wire type of texts, messages and packed numbers
FIXED = {1: 8, 5: 4}  # bytes by wire type


def name_of(module: bytes) -> str:
    """Returns the name of a module, given as HloModuleProto."""
    return next(module[value:end].decode() for number, _, value, end in _fields(module) if number == NAME)


def readable_module(serialised: bytes, name: str) -> bytes:
    """Returns the module of this name as HloModuleProto; each "async-update" has only its first operand.

    Raises:
        ValueError: The program has no such module in a known form.
    """
    start = serialised.find(SIGNATURE)
    if start < 0:
        raise ValueError("no Riegeli file")
    records = b"".join(serialised[at + BLOCK_HEADER : at + BLOCK] for at in range(start, len(serialised), BLOCK))
    modules = list(_messages_that_begin(records, _field(NAME, name.encode())))
    if not modules:
        raise ValueError(f"no module {name}")
    return _changed(max(modules, key=len), COMPUTATIONS, lambda c: _changed(c, INSTRUCTIONS, _with_one_operand))


def _messages_that_begin(data: bytes, beginning: bytes) -> Iterator[bytes]:
    """Yields possible messages: data with this beginning, after their own length."""
    for match in re.finditer(re.escape(beginning), data):
        for size in range(1, 6):
            length, end = _number(data, match.start() - size)
            message = data[match.start() : match.start() + length]
            if end == match.start() and length == len(message) > len(beginning) and _is_message(message):
                yield message


def _is_message(data: bytes) -> bool:
    try:
        return all(end <= len(data) for *_, end in _fields(data))
    except (ValueError, IndexError):
        return False


def _with_one_operand(instruction: bytes) -> bytes:
    if _field(OPCODE, b"async-update") not in instruction:
        return instruction
    return _changed(instruction, OPERANDS, lambda operands: operands[: _number(operands, 0)[1]])


def _changed(message: bytes, number: int, change: Callable[[bytes], bytes]) -> bytes:
    """Returns a message with each value of one field changed."""
    parts = []
    for found, start, value, end in _fields(message):
        parts.append(_field(number, change(message[value:end])) if found == number else message[start:end])
    return b"".join(parts)


def _fields(message: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Yields each field's number, and where it, its value and what follows begin.

    The encoding: https://protobuf.dev/programming-guides/encoding/.
    """
    at = 0
    while at < len(message):
        key, value = _number(message, at)
        if key & 7 == BYTES:
            length, value = _number(message, value)
            end = value + length
        elif key & 7 == 0:
            end = _number(message, value)[1]
        elif key & 7 in FIXED:
            end = value + FIXED[key & 7]
        else:
            raise ValueError(f"wire type {key & 7}")
        yield key >> 3, at, value, end
        at = end


def _number(data: bytes, at: int) -> tuple[int, int]:
    """Returns a variable-length number, seven bits per byte, and where it ends."""
    result = shift = 0
    while True:
        result |= (data[at] & 127) << shift
        shift += 7
        at += 1
        if data[at - 1] < 128:
            return result, at


def _field(number: int, value: bytes) -> bytes:
    return _encoded(number << 3 | BYTES) + _encoded(len(value)) + value


def _encoded(number: int) -> bytes:
    result = bytearray()
    while number > 127:
        result.append(number & 127 | 128)
        number >>= 7
    return bytes([*result, number])
