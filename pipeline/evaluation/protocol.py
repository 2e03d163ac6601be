"""A figure's protocol: what it was measured on and how; figures of differing protocols cannot be compared.

Light: standard library only.
"""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

# Where the same file lay, and which of the run's weights were scored, make no other protocol.
NO_PROTOCOL = ("text", "data", "step")


def differing(dictionaries: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the keys whose values are not the same everywhere, sorted."""
    keys = sorted({key for known in dictionaries for key in known})
    return [key for key in keys if any(known.get(key) != dictionaries[0].get(key) for known in dictionaries)]


def comparable(protocol: dict[str, Any]) -> dict[str, Any]:
    """Returns the part of a protocol in which figures must agree to be compared."""
    return {key: value for key, value in protocol.items() if key not in NO_PROTOCOL}


def file_name(protocol: dict[str, Any]) -> str:
    """Returns the file of a run directory that keeps figures: one a protocol and step, which a repetition replaces."""
    said = json.dumps(comparable(protocol) | {"step": protocol.get("step")}, sort_keys=True)
    return f"evaluation-{hashlib.sha256(said.encode()).hexdigest()[:12]}.json"
