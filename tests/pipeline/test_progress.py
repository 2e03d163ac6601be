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
    stream = io.StringIO()
    shown = progress.Throughput("tokenizing", 400e6, "MB", 1e6, done=100e6, stream=stream)
    for _ in range(3):
        clock[0] += 5
        shown.add(50e6)
    shown.finish()
    assert stream.getvalue() == "tokenizing  50 %, 10.0 MB/s, 20 s left\n"


def test_one_line_on_a_terminal_that_is_cleared(clock):
    stream = Terminal()
    shown = progress.Throughput("writing", 10, "shards", stream=stream)
    for _ in range(2):
        clock[0] += 1
        shown.add(5)
    shown.finish()
    assert stream.getvalue().count("\n") == 0 and stream.getvalue().endswith("\r\x1b[K")
    assert "\r\x1b[Kwriting  50 %, 5.0 shards/s, 1 s left\r" in stream.getvalue()


@pytest.mark.parametrize(("stream", "rewritten"), [(Terminal(), True), (io.StringIO(), False)])
def test_a_line_is_rewritten_on_a_terminal_and_plain_elsewhere(stream, rewritten):
    shown = progress.Progress(100, stream=stream)
    shown.show("step 1", "compiled")
    shown.show("step 50", "loss 3.0")
    shown.note("saved")
    text = stream.getvalue()
    assert "step 50" in text and "saved\n" in text and text.count("\n") == (1 if rewritten else 3)
    assert ("\r" in text) is rewritten


def test_a_line_that_is_wider_than_the_terminal_stays_one_line(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    stream = Terminal()
    progress.Progress(100, stream=stream).show("step 50/100  ", "loss 3.0  " + "and more figures " * 8, "  0:07 left")
    last = stream.getvalue().rpartition(progress.CLEAR)[2]
    assert len(last) == 39 and last.startswith("step 50/100  loss 3.0") and last.endswith("0:07 left")


def test_the_time_left_is_counted_from_the_first_line(clock):
    shown = progress.Progress(100, stream=io.StringIO())
    clock[0] += 60  # compiling
    assert shown.seconds_left(10) is None
    clock[0] += 5
    assert shown.seconds_left(20) == 40


def test_durations():
    assert [progress.duration(s) for s in (0.4, 59.4, 200, 7500)] == ["0 s", "59 s", "3 min 20 s", "2 h 05 min"]
