"""Progress: one changing line on a terminal, plain lines elsewhere, and rates that leave out earlier work."""

import io

import pytest

from pipeline import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_plain_lines_now_and_then(clock):
    file = io.StringIO()
    shown = progress.Progress("tokenizing", 400e6, "MB", 1e6, done=100e6, file=file)
    for _ in range(3):
        clock[0] += 5
        shown.add(50e6)
    shown.finish()
    assert file.getvalue() == "tokenizing  50 %, 10.0 MB/s, 20 s left\n"


def test_one_line_on_a_terminal_that_is_cleared(clock):
    file = Terminal()
    shown = progress.Progress("writing", 10, "shards", file=file)
    for _ in range(2):
        clock[0] += 1
        shown.add(5)
    shown.finish()
    assert file.getvalue().count("\n") == 0 and file.getvalue().endswith("\r\x1b[K")
    assert "\rwriting  50 %, 5.0 shards/s, 1 s left\x1b[K" in file.getvalue()


def test_durations():
    assert [progress.duration(s) for s in (0.4, 59.4, 200, 7500)] == ["0 s", "59 s", "3 min 20 s", "2 h 05 min"]
