"""The flight recorder: records, losses and gradient norms of skipped updates.

``incidents.jsonl`` has one JSON line per incident; ``python -m tools.replay`` rereads exactly those records.
"""

import contextlib
import json
from typing import Any

from pipeline.runs.run_directory import RunDirectory

FILE_NAME = "incidents.jsonl"


def read(directory: RunDirectory) -> list[dict[str, Any]]:
    """Returns a run's incidents by step; an empty list if there are none."""
    if not directory.exists(FILE_NAME):
        return []
    incidents: list[dict[str, Any]] = []
    for line in directory.read_text(FILE_NAME).splitlines():
        with contextlib.suppress(ValueError):
            incidents.append(json.loads(line))
    return incidents
