"""Excerpts of the preflight table for other pages: a few rows, and the hours of a whole schedule."""

import pathlib
from collections.abc import Mapping
from typing import NamedTuple

from pipeline.config import gin_reader
from pipeline.config.train_config import TrainConfig
from pipeline.devices import slices

Rows = Mapping[tuple[str, ...], str]  # lines of the table, by (model, slice, optimizer, remat)
OVERVIEW_SLICE = "v3-128"
OVERVIEW = (
    ("gpt2-small", "adafactor"),
    ("gpt2-xl", "adafactor"),
    ("gpt2-xl", "adamw"),
    ("algpt2-base", "adafactor"),
)
HOURS_SLICES = ("v3-8", "v3-128", "v4-32", "v5e-16", "v6e-8", "v5e-1", "v5e-8")
HOURS_RUNS = {"gpt2.gin": "gpt2-small", "algpt2.gin": "algpt2-base"}  # the model in the table
UNKNOWN = "?"


class Marks(NamedTuple):
    """The lines of a page that enclose an excerpt."""

    begin: str
    end: str


OVERVIEW_MARKS = Marks("<!-- preflight of v3-128 -->", "<!-- end of preflight -->")
HOURS_MARKS = Marks("<!-- hours by the preflight -->", "<!-- end of hours -->")


def write(page: pathlib.Path, marks: Marks, text: str) -> None:
    """Replaces the text between a page's marks."""
    before, _, rest = page.read_text(encoding="utf-8").partition(marks.begin)
    _, mark, after = rest.partition(marks.end)
    page.write_text(f"{before}{marks.begin}\n{text}{marks.end}{after if mark else rest}", encoding="utf-8")


def overview(rows: Rows) -> str:
    """Returns Markdown: microbatch, peak and times without and with rematerialization."""
    lines = [f"| on a {OVERVIEW_SLICE} | optimizer | without rematerialization | with |", "|---|---|---|---|"]
    for model, optimizer in OVERVIEW:
        variants = [rows.get((model, OVERVIEW_SLICE, optimizer, remat)) for remat in ("none", "full")]
        if any(variants):
            lines.append(f"| {model} | {optimizer} | {' | '.join(map(short, variants))} |")
    return "\n".join(lines) + "\n"


def short(line: str | None) -> str:
    """Returns a line of the table in a few words."""
    if line is None:
        return "not compiled yet"
    fits, microbatch, peak, _, _, *times, _ = _cells(line)
    spent = " to ".join(time for time in times if time not in ("-", UNKNOWN))
    return f"{microbatch} per core, {peak} GiB, {spent} ms" if fits == "yes" else f"does not fit: {peak} GiB"


def hours(rows: Rows) -> str:
    """Returns Markdown: hours and chip-hours of the run files' whole schedules, from the roofline to the cycles."""
    titles = [f"`{file}`: {what}" for file in HOURS_RUNS for what in ("hours", "chip-hours")]
    lines = [f"| slice | chips | {' | '.join(titles)} |", f"|{'---|' * (2 + len(titles))}"]
    for name in HOURS_SLICES:
        piece = slices.find(name)
        columns = [column for file in HOURS_RUNS for column in _hours(rows, file, piece)]
        lines.append(f"| {name} | {piece.chips} | {' | '.join(columns)} |")
    return "\n".join(lines) + "\n"


def _hours(rows: Rows, file: str, piece: slices.Slice) -> tuple[str, str]:
    settings = gin_reader.load([file], []).get(TrainConfig)
    line = rows.get((HOURS_RUNS[file], piece.name, "adafactor", "none"))
    if line is None:
        return "not compiled yet", "-"
    _, microbatch, _, _, bound, _, cycles, _ = _cells(line)
    # Here the update and the all-reduce count with every microbatch, unlike in the run.
    microsteps = settings.steps * settings.global_batch / (piece.cores * int(microbatch))
    least, most = (microsteps * float(milliseconds) / 3.6e6 for milliseconds in (bound, cycles))
    return _span(least, most), _span(piece.chips * least, piece.chips * most)


def _span(least: float, most: float) -> str:
    return f"{least:,.1f} to {most:,.1f}" if most < 10 else f"{least:,.0f} to {most:,.0f}"


def _cells(line: str) -> list[str]:
    """Returns the columns after model, slice, optimizer and rematerialization."""
    return [cell.strip() for cell in line.strip("| ").split("|")[4:]]
