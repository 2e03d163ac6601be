"""Writes one HTML page about a run, or about several to compare them; it needs no network to be read.

    python -m tools.report --run_dir=runs/a [--run_dir=runs/b …] --output=report.html [--png]

Long curves are thinned: of each stretch of records the lowest and the highest stay, so that no spike is lost. The means
of a hundred stretches are drawn over the losses and gradient norms of many steps.
TensorFlow is not imported. Exit code 2 if a directory is not a run.
"""

import contextlib
import dataclasses
import fnmatch
import importlib.util
import json
import math
import pathlib
from typing import Any

from absl import flags

from pipeline import cli, storage
from pipeline.errors import UserError, pip_install
from pipeline.evaluation import comparability
from pipeline.runs.run_directory import RunDirectory, with_present_names
from tools.report import charts, page

FLAGS = flags.FLAGS
# Settings of the shards that do not decide whether two validation figures may be compared.
IGNORED_KEYS = {"shard.shards", "shard.evaluation_shards", "shard.name"}


@dataclasses.dataclass(frozen=True)
class Run:
    """The contents of a run directory."""

    name: str  # its path, as it was given
    identity: dict[str, Any]  # run.json, flattened to ``section.setting``
    records: list[dict[str, Any]]  # metrics.jsonl, steps ascending; of older runs, one per loop of steps
    incidents: list[dict[str, Any]]  # updates that were skipped
    samples: str
    summary: dict[str, Any]  # {} while the run is not done
    evaluations: list[dict[str, Any]]  # results of pipeline.evaluate, the newest step of each protocol

    def points(self, x: str, y: str) -> list[tuple[float, float]]:
        """Returns a curve; a value that is not a finite number is (x, nan), a gap."""
        return [(float(record[x]), _number(record[y])) for record in self.records if x in record and y in record]

    def protocol(self) -> dict[str, Any]:
        """Returns the settings that the validation figures depend on."""
        chosen = {key: value for key, value in self.identity.items() if key.split(".")[0] in ("data", "shard")}
        context = {"model.context": self.identity.get("model.context")}
        return {key: value for key, value in (chosen | context).items() if key not in IGNORED_KEYS}

    def seconds(self) -> list[tuple[float, dict[str, float]]]:
        """Returns (step, seconds so far by activity); a restarted process, which counts from 0, is added on top."""
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
        """Returns the share of the seconds so far that were steps, by step."""
        return [
            (step, parts.get("step", 0) / sum(parts.values())) for step, parts in self.seconds() if any(parts.values())
        ]


def _number(value: Any) -> float:
    try:
        return float(value) if math.isfinite(float(value)) else math.nan
    except (TypeError, ValueError):
        return math.nan


def read(directory: str) -> Run:
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
    flat = {f"{name}.{key}": value for name, section in identity.items() for key, value in section.items()}
    summary = files.read_json("summary.json") if files.exists("summary.json") else {}
    if flat.get("shard.packing") == "lines":
        records = [comparability.for_line_packing(record, "validation.") for record in records]
        summary["validation"] = comparability.for_line_packing(summary.get("validation") or {})
    return Run(
        name=directory,
        identity=flat,
        records=records,
        incidents=_lines(files, "incidents.jsonl"),
        samples=files.read_text("samples.txt") if files.exists("samples.txt") else "",
        summary=summary,
        evaluations=_evaluations(files),
    )


def _evaluations(files: RunDirectory) -> list[dict[str, Any]]:
    """Returns figures with their protocols, the newest step of each protocol."""
    newest: dict[str, dict[str, Any]] = {}
    names = {path.rsplit("/", 1)[-1] for path, _ in storage.list_files(files.path, deep=False) or []}
    for name in sorted(fnmatch.filter(names, "evaluation-*.json")):
        evaluation = files.read_json(name)
        if not isinstance(evaluation, dict) or not {"figures", "protocol"} <= evaluation.keys():
            continue
        if evaluation["protocol"].get("packing") == "lines":
            evaluation["figures"] = comparability.for_line_packing(evaluation["figures"])
        key = json.dumps(comparability.comparable(evaluation["protocol"]), sort_keys=True)
        if key not in newest or evaluation["protocol"].get("step", 0) > newest[key]["protocol"].get("step", 0):
            newest[key] = evaluation
    return list(newest.values())


def _lines(files: RunDirectory, name: str) -> list[dict[str, Any]]:
    """Returns the JSON objects of a file, one per line; a line that a kill has cut is left out."""
    values: list[Any] = []
    for line in files.read_text(name).splitlines() if files.exists(name) else []:
        with contextlib.suppress(ValueError):
            values.append(json.loads(line))
    return [value for value in values if isinstance(value, dict)]


def main() -> None:
    """Reads every run, then writes the page."""
    cli.required("run_dir", "a directory that pipeline.train wrote (it repeats)")
    cli.required("output", "a file such as report.html")
    output = pathlib.Path(FLAGS.output)
    if output.suffix != ".html" or not output.absolute().parent.is_dir():
        raise UserError(f"--output={output}: expected a file FILE.html in a directory that exists")
    if len(set(FLAGS.run_dir)) < len(FLAGS.run_dir):
        raise UserError("--run_dir names a run twice; expected each once")
    if FLAGS.png and not importlib.util.find_spec("matplotlib"):
        raise UserError(f"--png needs matplotlib; {pip_install('-r requirements-plots.txt')}")
    runs = [read(directory) for directory in FLAGS.run_dir]
    figures = charts.figures(runs)
    storage.replace_bytes(page.page(runs, figures).encode(), str(output))
    print(f"wrote {output}: {len(runs)} run(s), {output.stat().st_size / 1e6:.2f} MB")
    for path in charts.write_pngs(figures, output) if FLAGS.png else []:
        print(f"wrote {path}")


def define_flags() -> None:
    """Defines the flags."""
    cli.define_paths("run_dir", "A run directory, local or gs://.")
    cli.define_path("output", None, "The page, FILE.html.")
    flags.DEFINE_bool("png", False, "Write each figure as FILE-NAME.png too, with matplotlib.")


if __name__ == "__main__":
    cli.run(main, define_flags)
