"""The page of tools.report: charts, tables, samples; colours follow the reader's light or dark setting."""

import html
from collections.abc import Sequence
from typing import Any

from tools.report.charts import COLOURS, POINTS, Figure, svg
from tools.report.tables import tables

SHOWN_SAMPLES = 5

STYLE = """
:root{color-scheme:light dark;--ink:#1c2228;--paper:#fff;--soft:#66717c;--line:#d9dfe4;--warn:#9a5200;--card:#f6f8f9}
@media(prefers-color-scheme:dark){:root{--ink:#e3e8ec;--paper:#14181c;--soft:#97a3ae;--line:#333c44;--warn:#f0ad5a;
--card:#1b2126}}
*{box-sizing:border-box}body{margin:0 auto;max-width:1080px;padding:16px;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,sans-serif;overflow-wrap:anywhere}h1{font-size:1.5em}h2{font-size:1.15em;margin:1.6em 0 .4em}
h3{font-size:1em}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));gap:16px}
figure{margin:0;background:var(--card);border:1px solid var(--line);border-radius:8px;padding:8px}
figcaption{font-weight:600;font-size:.9em}svg{width:100%;height:auto;display:block}svg text{fill:var(--soft);
font:14px system-ui,sans-serif}.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.9em}
td,th{padding:4px 12px 4px 0;border-bottom:1px solid var(--line);text-align:left;min-width:4.5em;max-width:22em;
overflow-wrap:break-word;vertical-align:top}
pre{white-space:pre-wrap;background:var(--card);padding:8px;border-radius:8px;font-size:.85em}
.note{color:var(--soft);font-size:.9em}.warning{color:var(--warn);font-weight:600}
.key{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin-right:.4em}.runs{list-style:none;padding:0}
"""


def page(runs: Sequence[Any], drawn: Sequence[Figure]) -> str:
    """Returns the whole page."""
    keys = "".join(
        f'<li><span class="key" style="background:{COLOURS[number % len(COLOURS)]}"></span>{html.escape(run.name)}'
        f"{'' if run.summary else ' (not done)'}</li>"
        for number, run in enumerate(runs)
    )
    shown = "".join(
        f"<figure><figcaption>{html.escape(figure.title)}, by {figure.x_label}</figcaption>{svg(figure)}</figure>"
        for figure in drawn
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        'content="width=device-width,initial-scale=1"><link rel="icon" href="data:,"><title>Report of runs</title>'
        f"<style>{STYLE}</style></head><body><h1>Report of {len(runs)} run{'s' * (len(runs) > 1)}</h1>"
        f'<ul class="runs">{keys}</ul><div class="grid">{shown}</div><p class="note">A curve of more than {POINTS} '
        "records is thinned to the lowest and highest of each stretch. Loss and gradient norm of many "
        "steps are pale, their means over hundredths of the run strong. Gaps are values that are not finite, dashed "
        f"lines skipped updates.</p>{tables(runs)}{_samples(runs)}</body></html>\n"
    )


def _samples(runs: Sequence[Any]) -> str:
    sections = ""
    for run in runs:
        samples = [sample.partition(" ===") for sample in run.samples.split("=== step ")[1:]][-SHOWN_SAMPLES:]
        shown = "".join(
            f"<pre>step {html.escape(step)}\n{html.escape(text.strip())}</pre>" for step, _, text in samples
        )
        sections += f"<h3>{html.escape(run.name)}</h3>{shown}" if shown else ""
    return f"<h2>Samples, the newest {SHOWN_SAMPLES}</h2>{sections}" if sections else ""
