"""Parses a request's JSON: checks every value; an error is one sentence."""

import json
from typing import Any

from pipeline.errors import nearest

INT32 = (1 << 31) - 1
GENERATE: dict[str, Any] = {
    "prompt": "",
    "max_tokens": 100,
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "seed": 0,
    "stream": False,
}
SCORE: dict[str, Any] = {"text": ""}
NAMES = {str: "a string", int: "an integer", float: "a number", bool: "true or false"}


class BadRequestError(Exception):
    """The request is wrong; the message says what was found and what was expected."""


def parse(body: bytes, known: dict[str, Any]) -> dict[str, Any]:
    """Reads a JSON object with the keys of ``known``, whose values are the defaults and set the types.

    Raises:
        BadRequestError: not a JSON object, an unknown key, a value of another type, or a text that is not Unicode.
    """
    try:
        values = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BadRequestError(f"the body is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise BadRequestError(f"the body is a {type(values).__name__}; expected a JSON object")
    for key in values:
        if key not in known:
            raise BadRequestError(f"{key[:40]!r} is unknown; expected {', '.join(known)}{nearest(key, known)}")
    return {key: _value(key, values.get(key, default), type(default)) for key, default in known.items()}


def _value(key: str, value: Any, kind: Any) -> Any:
    if kind is float and type(value) is int:
        value = float(value) if abs(value) <= INT32 else value
    if type(value) is not kind:
        raise BadRequestError(f"{key}={json.dumps(value)[:40]}: expected {NAMES[kind]}")
    if kind is int and not -INT32 <= value <= INT32:
        raise BadRequestError(f"{key}={str(value)[:40]}: expected at most {INT32}")
    if kind is str:
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise BadRequestError(f"{key} has half of a surrogate pair at {error.start}; expected Unicode") from None
        if not value:
            raise BadRequestError(f"{key} is empty; expected some text")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")
