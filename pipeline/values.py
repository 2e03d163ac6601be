"""The type check for every value of a gin file, an override or a slice's file.

Imports only the standard library.
"""

import math
import types
import typing
from typing import Any

from pipeline.errors import UserError, nearest

INT32 = 2**31 - 1  # TensorFlow counts, seeds and indexes with it
INT64 = 2**63 - 1
# What float32 holds without becoming infinite, or losing digits on its way to 0.
LARGEST, SMALLEST = float.fromhex("0x1.fffffep127"), 2.0**-126


def checked(name: str, value: Any, hint: Any) -> Any:
    """Returns the value of the setting ``name``; UserError if it has another type or TensorFlow cannot hold it.

    -0.0 becomes 0.0; otherwise equal settings would be two runs.
    """
    if not fits(value, hint):
        near = nearest(str(value), [choice for choice in typing.get_args(hint) if isinstance(choice, str)])
        raise UserError(f"{name} = {shown(value)}: expected {type_name(hint)}{near or _of_a_size(value, hint)}")
    return 0.0 if isinstance(value, float) and value == 0 else value


def fits(value: Any, hint: Any) -> bool:
    """Whether a value has a type; TensorFlow must also be able to hold a number."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return any(fits(value, part) for part in typing.get_args(hint))
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return value in typing.get_args(hint)
    if origin is tuple:
        parts = typing.get_args(hint)
        return isinstance(value, tuple) and len(value) == len(parts) and all(map(fits, value, parts))
    if hint is float:
        return _is_number(value) and (value == 0 or SMALLEST <= abs(value) <= LARGEST)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and -INT64 <= value <= INT64
    kind = origin or hint
    return not isinstance(kind, type) or isinstance(value, kind)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def _of_a_size(value: Any, hint: Any) -> str:
    """Returns the range that a number must be in, if it is not, or an empty string."""
    takes_float = float in (hint, *typing.get_args(hint))
    if takes_float and isinstance(value, int | float) and not isinstance(value, bool):
        return f" that float32 holds: 0, or {SMALLEST:.2g} to {LARGEST:.2g}"
    return " of at most 64 bits" if isinstance(value, int) and abs(value) > INT64 else ""


def shown(value: Any) -> str:
    """Returns a value as an error shows it: a number of a thousand digits is shortened."""
    if isinstance(value, int) and abs(value) > INT64:
        return f"{'-' if value < 0 else ''}2**{abs(value).bit_length() - 1} or more"
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}…"


def type_name(hint: Any) -> str:
    """Returns a type in words, for example "a whole number or None"."""
    if isinstance(hint, types.UnionType):
        return " or ".join(type_name(part) for part in typing.get_args(hint))
    if typing.get_origin(hint) is typing.Literal:
        return "one of " + ", ".join(map(repr, typing.get_args(hint)))
    if typing.get_origin(hint) is tuple:
        return f"({', '.join(type_name(part) for part in typing.get_args(hint))})"
    return {type(None): "None", str: "text", int: "a whole number", float: "a number", bool: "True or False"}.get(
        hint, getattr(hint, "__name__", str(hint))
    )
