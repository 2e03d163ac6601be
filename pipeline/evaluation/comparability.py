"""A figure's protocol: the data and the method of its measurement; figures of different protocols cannot be compared.

Imports only the standard library.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

# Not part of the protocol: where the file was, which of the run's weights were scored, and why a figure is omitted.
IGNORED_KEYS = ("text", "data", "step", "left_out")
# Figures that are divided by the size of the whole text, and these sizes.
BY_TEXT = ("bits_per_byte", "word_perplexity", "utf8_bytes", "words")
SHORT = "holds what the others leave, with fewer tokens before them"
FULL = "ends with the text and holds as many tokens as the others, as in lm_eval"
LEFT_OUT = (
    "bits per byte and word perplexity: line packing scores neither a line's first token nor what it cuts off, "
    "and the data set's bytes and words are those of the whole text"
)


def differing(dictionaries: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the keys whose values differ, sorted."""
    keys = sorted({key for dictionary in dictionaries for key in dictionary})
    return [key for key in keys if any(each.get(key) != dictionaries[0].get(key) for each in dictionaries)]


def for_line_packing(figures: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the figures (named with ``prefix``) that are valid for line-packed data; older runs wrote all."""
    return {name: value for name, value in figures.items() if name not in {prefix + left for left in BY_TEXT}}


def comparable(protocol: dict[str, Any]) -> dict[str, Any]:
    """Returns the part of a protocol that comparable figures share; older protocols lack ``SHORT``."""
    return {key: value for key, value in protocol.items() if key not in IGNORED_KEYS and value != SHORT}


def file_name(protocol: dict[str, Any]) -> str:
    """Returns the name of the figures' file in the run directory: one per protocol and step."""
    identity = json.dumps(comparable(protocol) | {"step": protocol.get("step")}, sort_keys=True)
    return f"evaluation-{hashlib.sha256(identity.encode()).hexdigest()[:12]}.json"
