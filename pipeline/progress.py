"""Progress of long work: one line that changes on a terminal, plain lines elsewhere."""

import shutil
import sys
import time
from collections.abc import Sequence
from typing import TextIO

from pipeline.streams import CLEAR

SECONDS_ON_TERMINAL, SECONDS_ELSEWHERE = 0.2, 10.0  # between two lines from ``add``
KEPT = 20  # lines of a whole run that stay on a terminal
OF_STEPS = ("of peak", "grad norm", "loss", "step ")  # what a training line can do without, the first most easily


def duration(seconds: float) -> str:
    """Spells seconds as '8 s', '3 min 20 s' or '2 h 05 min'."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def counted(count: int, thing: str) -> str:
    """Spells '1 shard' or '2 shards'."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def fitting(fields: Sequence[str], spare: Sequence[str], room: int) -> str:
    """Joins fields by two spaces; leaves out those that hold the first words of ``spare`` until the line fits."""
    for word in spare:
        if len("  ".join(fields)) > room:
            fields = [field for field in fields if word not in field]
    return "  ".join(fields)[:room]


class Progress:
    """A line that shows how far some work is and its rate, with lines in between that stay.

    Args:
        total: total amount of work, in ``unit`` times ``scale``.
        work: what is being done, for example 'tokenizing', if ``add`` counts it.
        unit: the unit of the rate that ``add`` shows, for example 'MB'.
        scale: amount that makes one unit.
        done: amount that an interrupted run did before; it does not count for the rate. None: the rate counts from the
            first call of ``rate``, so that compiling does not count.
        stream: where the line goes; None: standard error with ``work``, else standard output.
    """

    def __init__(
        self,
        total: float,
        *,
        work: str = "",
        unit: str = "",
        scale: float = 1.0,
        done: float | None = None,
        stream: TextIO | None = None,
    ):
        self.total, self._work, self._unit, self._scale = total, work, unit, scale
        self._stream = stream or (sys.stderr if work else sys.stdout)  # as it is now: the command line replaces it
        self.on_terminal = self._stream.isatty()
        self._open = False  # whether a terminal shows an unfinished line
        self._done, self._shown, self._part = done or 0.0, time.monotonic(), -1
        self._first = None if done is None else (done, time.monotonic())

    def rate(self, done: float) -> float:
        """Returns the amount per second, up to ``done``."""
        now = time.monotonic()
        before, began = self._first = self._first or (done, now)
        return (done - before) / max(now - began, 1e-9)

    def seconds_left(self, done: float) -> float | None:
        """Returns the seconds that the rest takes at this rate; None if there is no rate yet."""
        rate = self.rate(done)
        return (self.total - done) / rate if rate > 0 else None

    def show(self, *fields: str, spare: Sequence[str] = (), done: float | None = None) -> None:
        """Replaces the line; on a terminal it fits without wrapping, and one line stays per twentieth of ``done``."""
        room = shutil.get_terminal_size().columns - 1 if self.on_terminal else sys.maxsize
        self._write(fitting(fields, spare, room), "" if self.on_terminal else "\n")
        self._open = self.on_terminal
        if done is not None:
            before, self._part = self._part, int(KEPT * done / self.total)
            if self._part > before:
                self.keep()

    def add(self, amount: float) -> None:
        """Counts more work as done, and shows it if the last line is old enough."""
        self._done += amount
        now = time.monotonic()
        if now - self._shown >= (SECONDS_ON_TERMINAL if self.on_terminal else SECONDS_ELSEWHERE):
            self._shown = now
            rate, left = self.rate(self._done) / self._scale, self.seconds_left(self._done)
            share = 100 * self._done / self.total if self.total else 100.0
            remaining = "?" if left is None else duration(left)
            self.show(f"{self._work} {share:3.0f} %, {rate:,.1f} {self._unit}/s, {remaining} left")

    def keep(self) -> None:
        """Ends the line that a terminal shows, so that it stays and the next output begins a new one."""
        if self._open:
            self._stream.write("\n")
            self._open = False

    def note(self, text: str) -> None:
        """Prints a line that stays."""
        self._write(text, "\n")
        self._open = False

    def finish(self) -> None:
        """Clears the terminal's line."""
        self._write("", "")
        self._open = False

    def _write(self, text: str, end: str) -> None:
        self._stream.write(f"{CLEAR if self.on_terminal else ''}{text}{end}")
        self._stream.flush()
