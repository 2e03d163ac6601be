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
    shown = progress.Progress(400e6, work="tokenizing", unit="MB", scale=1e6, done=100e6, stream=stream)
    for _ in range(3):
        clock[0] += 5
        shown.add(50e6)
    shown.finish()
    assert stream.getvalue() == "tokenizing  50 %, 10.0 MB/s, 20 s left\n"


def test_one_line_on_a_terminal_that_is_cleared(clock):
    stream = Terminal()
    shown = progress.Progress(10, work="writing", unit="shards", done=0, stream=stream)
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


def test_the_time_left_is_counted_from_the_first_line(clock):
    shown = progress.Progress(100, stream=io.StringIO())
    clock[0] += 60  # compiling
    assert shown.seconds_left(10) is None
    clock[0] += 5
    assert shown.seconds_left(20) == 40


def test_durations():
    assert [progress.duration(s) for s in (0.4, 59.4, 200, 7500)] == ["0 s", "59 s", "3 min 20 s", "2 h 05 min"]


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        (80, "step 1/9  loss 3.5  5 tokens/s  9% of peak  0:05 left"),
        (50, "step 1/9  loss 3.5  5 tokens/s  0:05 left"),
        (40, "step 1/9  5 tokens/s  0:05 left"),
        (30, "5 tokens/s  0:05 left"),
        (9, "5 tokens"),
    ],
)
def test_a_narrow_terminal_gets_whole_fields_and_the_rate_and_the_time_left(monkeypatch, columns, line):
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = progress.Progress(9, stream=Terminal())
    shown.show("step 1/9", "loss 3.5", "5 tokens/s", "9% of peak", "0:05 left", spare=progress.OF_STEPS)
    assert shown._stream.getvalue() == f"\r\x1b[K{line}"


def test_what_is_printed_after_a_line_that_is_kept_begins_anew():
    stream = Terminal()
    shown = progress.Progress(9, stream=stream)
    shown.keep()
    shown.show("1/9")
    shown.keep()
    shown.keep()
    stream.write("{}")
    assert stream.getvalue() == "\r\x1b[K1/9\n{}"
    elsewhere = progress.Progress(9, stream=io.StringIO())
    elsewhere.show("1/9")
    elsewhere.keep()
    assert elsewhere._stream.getvalue() == "1/9\n"
