"""What a person sees on a terminal of 80 and of 40 columns, through a pseudo-terminal."""

import json
import re
import sys

import pytest

from tests.helpers import terminal
from tests.helpers.places import ROOT


def screen(command, columns):
    """Returns the lines that stay of a command that succeeds."""
    code, written = terminal.run(command, columns, cwd=ROOT)
    assert code == 0, written
    return terminal.lines(written, columns)


@pytest.mark.parametrize("columns", [80, 40])
def test_a_run_leaves_a_line_for_each_twentieth_and_its_figures_begin_anew(
    small_data, run_flags, python, tmp_path, columns
):
    flags = [*run_flags, f"--data={small_data}", f"--run_dir={tmp_path}/run", "--gin_param=train.steps=80"]
    command = [python, "-m", "pipeline.train", *flags, "--gin_param=train.steps_per_loop=1", "--tpu=virtual-1"]
    lines = screen(command, columns)
    kept = [line for line in lines if re.search(r"[\d,]+ tokens/s  .*\d:\d\d left$", line)]
    first = next(number for number, line in enumerate(lines) if line.startswith("step 1/80"))
    assert kept == lines[first + 1 : first + 21], "none is wrapped"
    end = lines.index("{")
    assert "".join(lines[first + 21 : end]) == f"wrote {tmp_path}/run/report.html"
    if columns == 80:
        assert [int(line.split("/")[0].removeprefix("step ")) for line in kept] == list(range(4, 81, 4))
        assert all("loss" in line for line in kept)
    assert json.loads("".join(lines[end:]))["steps"] == 80


# A run that writes what a training writes to its log, and a worker of two such runs.
RUN = """
import json, pathlib, sys, time
home = pathlib.Path(sys.argv[1].removeprefix("--run_dir="))
home.mkdir()
print("starts at step 0")
print("step 5/9  loss 5.7599  grad norm 0.746  1,234,567 tokens/s  48% of peak  1:01:01 left")
(home / "summary.json").write_text(json.dumps({"train": {"nats_per_token": 1.0}, "steps": 9, "tokens_seen": 9,
                                               "parameters": 1}, indent=2))
print("}", flush=True)
time.sleep(1)  # as a training that closes its files
"""
WORKER = """
import sys
from pipeline import streams
from tools.sweep.ledger import Ledger
from tools.sweep.runner import Job, Runner
streams.protect()
jobs = [Job(key=f"{n}", label=f"train.seed={n}", overrides={}, arguments=()) for n in (0, 1)]
Runner(["-c", sys.argv[2]], Ledger(f"{sys.argv[1]}/ledger"), sys.argv[1]).run(jobs)
"""


@pytest.mark.parametrize(
    ("columns", "live"),
    [
        (80, "train.seed=0  step 5/9  loss 5.7599  1,234,567 tokens/s  1:01:01 left"),
        (40, "1,234,567 tokens/s  1:01:01 left"),
    ],
)
def test_a_sweep_of_two_leaves_a_line_for_each_cell(tmp_path, columns, live):
    code, written = terminal.run([sys.executable, "-c", WORKER, str(tmp_path), RUN], columns, cwd=ROOT)
    assert code == 0 and live in [part.removeprefix("\x1b[K") for part in written.split("\r")], written
    text = "".join(terminal.lines(written, columns))
    assert re.fullmatch(
        r"1/2  done  train 1.0000 nats per token *train.seed=0  \d+ s left"
        r"2/2  done  train 1.0000 nats per token *train.seed=1",
        text,
    )


def test_what_is_printed_while_a_line_is_shown_begins_anew_and_files_get_no_empty_line(tmp_path):
    code = """
import sys
from pipeline import streams
from pipeline.progress import Progress
streams.protect()
Progress(9).show("step 1/9")
print("warning: slow", file=sys.stderr)
print("{}")
"""
    ended, written = terminal.run([sys.executable, "-c", code], 40, cwd=ROOT)
    assert ended == 0 and terminal.lines(written, 40) == ["step 1/9", "warning: slow", "{}", ""]
    log = tmp_path / "log"
    with log.open("w") as stderr:
        _, written = terminal.run([sys.executable, "-c", code], 40, cwd=ROOT, stderr=stderr)
    assert log.read_text() == "warning: slow\n" and terminal.lines(written, 40) == ["step 1/9", "{}", ""]
