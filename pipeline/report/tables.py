"""The tables of tools.report: figures with their protocols, time, incidents and configuration differences."""

import datetime
import html
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

from pipeline.evaluation.comparability import LEFT_OUT, comparable, differing
from pipeline.report.read import Run

SHOWN_INCIDENTS = 20


def tables(runs: Sequence[Run], *, each: bool = True) -> str:
    """Returns the tables, each under its heading; without ``each``, only the sources of the figures."""
    parts = (_validation, _evaluations, _seconds, _incidents, _starts, _configuration)
    return "".join(part(runs) for part in (parts if each else (_evaluations, _incidents)))


def table(head: Sequence[Any], rows: Iterable[Sequence[Any]], kind: str = "") -> str:
    """Returns a table that scrolls by itself if it is wider than the page; an empty ``head``: no head."""
    cells = [f"<tr>{''.join(f'<th>{html.escape(str(cell))}</th>' for cell in head)}</tr>"] if head else []
    cells += [f"<tr>{''.join(f'<td>{_cell(str(cell))}</td>' for cell in row)}</tr>" for row in rows]
    return f'<div class="scroll {kind}" tabindex="0"><table>{"".join(cells)}</table></div>'


def _cell(text: str) -> str:
    """Returns a cell's text as HTML; a command's flag breaks only if it is longer than the cell."""
    return re.sub(r"(?<!\S)--\S+", r'<span class="flag">\g<0></span>', html.escape(text))


def _folded(title: str, head: Sequence[Any], dictionaries: Sequence[dict[str, Any]]) -> str:
    """Returns a table that opens on request: one row per key, one column per dictionary."""
    keys = sorted({key for column in dictionaries for key in column})
    rows = [[key, *(column.get(key, "-") for column in dictionaries)] for key in keys]
    return f"<details><summary>{html.escape(title)}</summary>{table(head, rows)}</details>"


def _warning(keys: Sequence[str]) -> str:
    """Says which figures are not comparable; with other tokens, words and bytes stay the same."""
    if not keys:
        return ""
    what = "By token these figures" if list(keys) == ["tokenizer"] else "These figures"
    return f'<p class="warning">{what} cannot be compared: {html.escape(", ".join(keys))} differ.</p>'


def _left_out(packings: Iterable[Any]) -> str:
    """Says why line-packed data have no figures by text."""
    return f'<p class="note">Left out of line-packed data: {LEFT_OUT}.</p>' if "lines" in packings else ""


def _validation(runs: Sequence[Run]) -> str:
    rows = []
    for run in runs:
        records = [record for record in run.records if "validation.nats_per_token" in record]
        if run.summary.get("validation"):
            last = {f"validation.{key}": value for key, value in run.summary["validation"].items()}
            records.append({"step": run.summary.get("steps", ""), **last})
        if records:
            figures = [
                records[-1].get(f"validation.{key}") for key in ("nats_per_token", "perplexity", "bits_per_byte")
            ]
            rows.append(
                [run.name, records[-1]["step"], *("" if value is None else f"{value:.4f}" for value in figures)]
            )
    if not rows:
        return "<h2>Validation</h2><p>None yet.</p>"
    protocols = [run.protocol() for run in runs]
    rendered = table(["run", "step", "nats per token", "perplexity", "bits per byte"], rows)
    title = "Protocol: windows without overlap over the validation part"
    named = [{_gin_name(runs, key): value for key, value in protocol.items()} for protocol in protocols]
    folded = _folded(title, ["protocol", *(run.name for run in runs)], named)
    why = _left_out(run.identity.get("shard.packing") for run in runs)
    return f"<h2>Validation</h2>{_warning(differing(named))}{rendered}{why}{folded}"


def _evaluations(runs: Sequence[Run]) -> str:
    """Returns the results of pipeline.evaluate: one table per source, with a warning where the protocols differ."""
    sources: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for run in runs:
        for evaluation in run.evaluations:
            scored = evaluation["protocol"]  # a file, known by its bytes, or a part of a corpus
            source = str(scored.get("file_sha256") or f"{scored.get('corpus')} {scored.get('part')}")
            sources.setdefault(source, []).append((run.name, evaluation))
    sections = ""
    for key in sorted(sources):
        rows = sources[key]
        protocols = [comparable(evaluation["protocol"]) for _, evaluation in rows]
        different = differing(protocols)
        figures = list(dict.fromkeys(name for _, evaluation in rows for name in evaluation["figures"]))
        lines = [
            [
                name,
                evaluation["protocol"].get("step", ""),
                *(evaluation["protocol"].get(what, "-") for what in different),
                *(_figure(evaluation["figures"].get(figure)) for figure in figures),
            ]
            for name, evaluation in rows
        ]
        head = ["run", "step", *different, *(figure.replace("_", " ") for figure in figures)]
        folded = _folded("Protocol", ["protocol", *(name for name, _ in rows)], protocols)
        title = f"<h3>{html.escape(_title(rows[0][1]['protocol']))}</h3>"
        why = _left_out(protocol.get("packing") for protocol in protocols)
        sections += f"{title}{_warning(different)}{table(head, lines)}{why}{folded}"
    return f"<h2>Evaluation</h2>{sections}" if sections else ""


def _title(protocol: dict[str, Any]) -> str:
    if "text" in protocol:
        return pathlib.PurePath(protocol["text"]).name
    return f"{str(protocol.get('corpus', 'data')).split()[0]}, {protocol.get('part')}"


def _figure(value: Any) -> str:
    if value is None or isinstance(value, int):
        return "-" if value is None else f"{value:,}"
    return f"{value:.4f}" if abs(value) < 1e6 else f"{value:.4g}"  # an untrained model's word perplexity


def _seconds(runs: Sequence[Run]) -> str:
    totals = [history[-1][1] if (history := run.seconds) else {} for run in runs]
    parts = sorted({part for seconds in totals for part in seconds})
    rows = [[part.replace("_", " "), *(f"{seconds.get(part, 0):,.1f}" for seconds in totals)] for part in parts]
    return f"<h2>Seconds by part</h2>{table(['part', *(run.name for run in runs)], rows)}" if rows else ""


def _incidents(runs: Sequence[Run]) -> str:
    keys = ("step", "reason", "loss", "grad_norm")
    rows = [
        [run.name, *(incident.get(key, "") for key in keys)]
        for run in runs
        for incident in run.incidents[:SHOWN_INCIDENTS]
    ]
    count = sum(len(run.incidents) for run in runs)
    shown = f"<p>{count:,} skipped updates; the first {SHOWN_INCIDENTS} of each run are shown.</p>"
    head = ["run", *(key.replace("_", " ") for key in keys)]
    return f"<h2>Incidents</h2>{shown + table(head, rows) if rows else '<p>None.</p>'}"


def _starts(runs: Sequence[Run]) -> str:
    """Returns the starts of runs that started more than once."""
    rows = [
        [run.name, start.get("step", ""), utc(start["time"]), start.get("devices", ""), start.get("code") or "-"]
        for run in runs
        if len(run.starts) > 1
        for start in run.starts
        if "time" in start
    ]
    head = ["run", "from step", "time", "devices", "commit"]
    return f"<h2>Starts</h2>{table(head, rows)}" if rows else ""


def utc(seconds: float) -> str:
    """Formats Unix seconds as a date and a time of day."""
    return f"{datetime.datetime.fromtimestamp(seconds, datetime.UTC):%Y-%m-%d %H:%M} UTC"


def _configuration(runs: Sequence[Run]) -> str:
    if len(runs) < 2:
        (run,) = runs
        settings = {_gin_name(runs, key): value for key, value in run.identity.items() if not _is_kind(key)}
        return f"<h2>Configuration</h2>{_folded(f'{len(settings)} settings', ['setting', run.name], [settings])}"
    keys = [key for key in differing([run.identity for run in runs]) if not _is_kind(key)]
    rows = [[_gin_name(runs, key), *(run.identity.get(key, "-") for run in runs)] for key in keys]
    rendered = table(["setting", *(run.name for run in runs)], rows) if rows else "<p>None.</p>"
    return f"<h2>Differences of configuration</h2>{rendered}"


def _is_kind(key: str) -> bool:
    """Whether a key names the model or the optimizer, like ``train.model`` and ``train.optimizer`` in gin."""
    return key.endswith(".kind")


def _gin_name(runs: Sequence[Run], key: str) -> str:
    """Returns a setting as gin spells it, ``GPT2/ALGPT2.width`` if the runs' models differ."""
    names = dict.fromkeys(run.gin_name(key) for run in runs if key in run.identity) or {key: None}
    setting = key.partition(".")[2]
    return f"{'/'.join(name.removesuffix(f'.{setting}') for name in names)}.{setting}"
