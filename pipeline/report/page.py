"""The page of a report: one self-contained file; its colors follow the reader's light or dark setting."""

import html
import json
import pathlib
import re
from collections.abc import Sequence

from pipeline.report import charts
from pipeline.report.charts import AxisFigure, Figure
from pipeline.report.head import head
from pipeline.report.read import Run
from pipeline.report.tables import tables

ASSETS = pathlib.Path(__file__).with_name("assets")
FILES = ("report.css", "axes.js", "touch.js", "report.js")
SHOWN_SAMPLES = 5


def page(
    runs: Sequence[Run], drawn: Sequence[Figure], axes: Sequence[AxisFigure] = (), sweep: str = "", cells: str = ""
) -> str:
    """Returns the whole page.

    Args:
        runs: at least one; draws their curves. For a sweep: the best cells, best first.
        drawn: the figures by step.
        axes: the figures of a sweep.
        sweep: its name; gives an overview of the best cell in place of tables with a column for each.
        cells: the table of a sweep, as HTML.
    """
    name = f"Sweep {sweep}" if sweep else f"Run {runs[0].name}" if len(runs) == 1 else f"{len(runs)} runs"
    best = f"<h2>Best cell: {html.escape(runs[0].name)}</h2>"
    told = runs[:1] if sweep else runs
    # A "<" in a name or a sample could end the script that holds the data.
    data = json.dumps(charts.as_json(runs, drawn, axes), allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    parts = {
        "TITLE": html.escape(name),
        "HEAD": cells + (best if sweep else "<h2>Overview</h2>") + head(told),
        "TABLES": tables(runs, each=not sweep) + _samples(told),
        "DATA": data,
        **{file: (ASSETS / file).read_text(encoding="utf-8") for file in FILES},
        **{
            file: (ASSETS / "uplot" / file).read_text(encoding="utf-8")
            for file in ("uPlot.min.css", "uPlot.iife.min.js", "LICENSE")
        },
    }
    frame = (ASSETS / "page.html").read_text(encoding="utf-8")
    return re.sub(r"@([\w.]+)@", lambda match: parts[match[1]], frame)


def _samples(runs: Sequence[Run]) -> str:
    sections = ""
    for run in runs:
        samples = [sample.partition(" ===") for sample in run.samples.split("=== step ")[1:]][-SHOWN_SAMPLES:]
        shown = "".join(
            f"<pre>step {html.escape(step)}\n{html.escape(text.strip())}</pre>" for step, _, text in samples
        )
        sections += f"<h3>{html.escape(run.name)}</h3>{shown}" if shown else ""
    return f"<h2>Samples, the newest {SHOWN_SAMPLES}</h2>{sections}" if sections else ""
