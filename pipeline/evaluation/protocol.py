"""A figure's protocol: what it was measured on and how; figures of differing protocols cannot be compared.

Light: standard library only.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

# Where the same file lay, which of the run's weights were scored, and why a figure is not there make no other protocol.
NO_PROTOCOL = ("text", "data", "step", "left_out")
# Figures that divide by the whole text, and what they divide by.
BY_TEXT = ("bits_per_byte", "word_perplexity", "utf8_bytes", "words")
SHORT = "holds what the others leave, with fewer tokens before them"
FULL = "ends with the text and holds as many tokens as the others, as in lm_eval"
LEFT_OUT = (
    "bits per byte and word perplexity: line packing scores neither a line's first token nor what it cuts off, "
    "and the data set's bytes and words are those of the whole text"
)


def differing(dictionaries: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the keys whose values are not the same everywhere, sorted."""
    keys = sorted({key for known in dictionaries for key in known})
    return [key for key in keys if any(known.get(key) != dictionaries[0].get(key) for known in dictionaries)]


def of_lines(figures: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the figures, named with ``prefix``, that hold for line-packed data: older runs wrote all of them."""
    return {name: value for name, value in figures.items() if name not in {prefix + left for left in BY_TEXT}}


def comparable(protocol: dict[str, Any]) -> dict[str, Any]:
    """Returns the part of a protocol in which figures must agree to be compared; older ones do not say ``SHORT``."""
    return {key: value for key, value in protocol.items() if key not in NO_PROTOCOL and value != SHORT}


def file_name(protocol: dict[str, Any]) -> str:
    """Returns the file of a run directory that keeps figures: one a protocol and step, which a repetition replaces."""
    said = json.dumps(comparable(protocol) | {"step": protocol.get("step")}, sort_keys=True)
    return f"evaluation-{hashlib.sha256(said.encode()).hexdigest()[:12]}.json"
