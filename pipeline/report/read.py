"""Reads a run directory for its report."""

import contextlib
import dataclasses
import functools
import itertools
import json
import math
from typing import Any

from pipeline.errors import UserError
from pipeline.evaluation import comparability
from pipeline.evaluation.kept_figures import kept_figures
from pipeline.runs import incidents, starts
from pipeline.runs.run_directory import RunDirectory, with_present_names

# Settings of the shards that do not affect whether two validation figures are comparable.
IGNORED_KEYS = {"shard.shards", "shard.evaluation_shards", "shard.name"}


@dataclasses.dataclass(frozen=True)
class Run:
    """The contents of a run directory."""

    name: str  # its path as given, or the settings that distinguish it from the others of a sweep
    identity: dict[str, Any]  # run.json, flattened to ``section.setting``
    records: list[dict[str, Any]]  # metrics.jsonl, steps ascending; of older runs, one per loop of steps
    incidents: list[dict[str, Any]]  # updates that were skipped
    samples: str
    summary: dict[str, Any]  # {} while the run is not done
    evaluations: list[dict[str, Any]]  # results of pipeline.evaluate, the newest step of each protocol
    starts: list[dict[str, Any]]  # of its processes; [] of an older run
    began: float | None  # Unix time of the first start

    def points(self, y: str, x: str = "step") -> list[tuple[float, float]]:
        """Returns a curve; a value that is not a finite number is (x, nan), a gap."""
        return [(float(record[x]), _number(record[y])) for record in self.records if x in record and y in record]

    def protocol(self) -> dict[str, Any]:
        """Returns the settings that the validation figures depend on."""
        chosen = {key: value for key, value in self.identity.items() if key.split(".")[0] in ("data", "shard")}
        context = {"model.context": self.identity.get("model.context")}
        return {key: value for key, value in (chosen | context).items() if key not in IGNORED_KEYS}

    def gin_name(self, key: str) -> str:
        """Returns a key of ``identity`` as gin spells it: ``ALGPT2.width`` for ``model.width``."""
        section, _, setting = key.partition(".")
        kind = str(self.identity.get(f"{section}.kind", section)).removesuffix("Config")
        return f"{kind}.{setting}"

    @functools.cached_property
    def seconds(self) -> list[tuple[float, dict[str, float]]]:
        """Returns (step, seconds so far by activity); adds up restarted processes, which count from 0."""
        history: list[tuple[float, dict[str, float]]] = []
        before: dict[str, float] = {}
        last: dict[str, float] = {}
        for record in self.records:
            now = {key[8:]: float(value) for key, value in record.items() if key.startswith("seconds.")}
            if not now:
                continue
            if sum(now.values()) < sum(last.values()):
                before = {part: before.get(part, 0) + last.get(part, 0) for part in {*before, *last}}
            last = now
            history.append((record["step"], {part: before.get(part, 0) + now.get(part, 0) for part in {*before, *now}}))
        return history

    def goodput(self) -> list[tuple[float, float]]:
        """Returns steps' share of the seconds so far, by step."""
        return [
            (step, parts.get("step", 0) / sum(parts.values())) for step, parts in self.seconds if any(parts.values())
        ]

    def hours(self) -> list[tuple[float, float]]:
        """Returns the hours of work so far, by step, without restarts and time when no process ran."""
        return [(step, (sum(parts.values()) - parts.get("restart", 0)) / 3600) for step, parts in self.seconds]

    def restarts(self) -> list[float]:
        """Returns the last steps before another process resumed: there the time of restarts, or of compiling, grew."""
        parts, history = ("restart", "compile"), self.seconds
        return [
            step
            for (step, earlier), (_, later) in itertools.pairwise(history)
            if any(later.get(part, 0) > earlier.get(part, 0) for part in parts)
        ]

    def best(self) -> tuple[float, float] | None:
        """Returns (step, nats per token) of the lowest validation loss."""
        points = [point for point in self.points("validation.nats_per_token") if math.isfinite(point[1])]
        last = _number((self.summary.get("validation") or {}).get("nats_per_token"))
        points += [(float(self.summary.get("steps", 0)), last)] if math.isfinite(last) else []
        return min(points, key=lambda point: point[1], default=None)


def _number(value: Any) -> float:
    try:
        return float(value) if math.isfinite(float(value)) else math.nan
    except (TypeError, ValueError):
        return math.nan


def read(directory: str, name: str | None = None) -> Run:
    """Reads a run directory, local or gs://.

    Raises:
        UserError: there is no run, it has not finished a step, or it is damaged.
    """
    files = RunDirectory(directory)
    identity = files.read_json("run.json")
    if not isinstance(identity, dict) or not all(isinstance(section, dict) for section in identity.values()):
        raise UserError(f"--run_dir={directory}: its run.json is not one of pipeline.train")
    lines = _lines(files, "metrics.jsonl")
    records = [with_present_names(record) for record in lines if isinstance(record.get("step"), int)]
    if not records:
        raise UserError(
            f"--run_dir={directory}: its metrics.jsonl has no record yet; expected a run of at least one step"
        )
    flat = {f"{section}.{key}": value for section, values in identity.items() for key, value in values.items()}
    summary = files.read_json("summary.json") if files.exists("summary.json") else {}
    if flat.get("shard.packing") == "lines":
        records = [comparability.for_line_packing(record, "validation.") for record in records]
        summary["validation"] = comparability.for_line_packing(summary.get("validation") or {})
    began = _number(files.read_text("began.txt")) if files.exists("began.txt") else math.nan
    return Run(
        name=name or directory,
        identity=flat,
        records=records,
        incidents=_lines(files, incidents.FILE_NAME),
        samples=files.read_text("samples.txt") if files.exists("samples.txt") else "",
        summary=summary,
        evaluations=_evaluations(files),
        starts=_lines(files, starts.FILE_NAME),
        began=began if math.isfinite(began) else None,
    )


def _evaluations(files: RunDirectory) -> list[dict[str, Any]]:
    """Returns figures with their protocols, the newest step of each protocol."""
    newest: dict[str, dict[str, Any]] = {}
    for evaluation in kept_figures(files):
        key = json.dumps(comparability.comparable(evaluation["protocol"]), sort_keys=True)
        if key not in newest or evaluation["protocol"].get("step", 0) > newest[key]["protocol"].get("step", 0):
            newest[key] = evaluation
    return list(newest.values())


def _lines(files: RunDirectory, name: str) -> list[dict[str, Any]]:
    """Returns a file's JSON objects, one per line; omits a line that a kill has cut."""
    values: list[Any] = []
    for line in files.read_text(name).splitlines() if files.exists(name) else []:
        with contextlib.suppress(ValueError):
            values.append(json.loads(line))
    return [value for value in values if isinstance(value, dict)]
