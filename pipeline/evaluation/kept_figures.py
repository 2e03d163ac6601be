"""Reads the figures that pipeline.evaluate keeps in a run directory."""

import fnmatch
from collections.abc import Iterator
from typing import Any

from pipeline import storage
from pipeline.evaluation.comparability import for_line_packing
from pipeline.runs.run_directory import RunDirectory


def kept_figures(files: RunDirectory) -> Iterator[dict[str, Any]]:
    """Yields each evaluation (``figures`` and their ``protocol``) by file name; skips other files."""
    names = {path.rsplit("/", 1)[-1] for path, _ in storage.list_files(files.path, deep=False) or []}
    for name in sorted(fnmatch.filter(names, "evaluation-*.json")):
        evaluation = files.read_json(name)
        if not isinstance(evaluation, dict) or not {"figures", "protocol"} <= evaluation.keys():
            continue
        if evaluation["protocol"].get("packing") == "lines":
            evaluation["figures"] = for_line_packing(evaluation["figures"])
        yield evaluation
