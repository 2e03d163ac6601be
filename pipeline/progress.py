"""Progress of long work on stderr: one line that changes on a terminal, plain lines now and then elsewhere."""

import sys
import time
from typing import TextIO


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


SECONDS_ON_TERMINAL, SECONDS_ELSEWHERE = 0.2, 10.0  # between two lines


class Progress:
    """Shows how much of ``total`` is done, how fast and how long it will still take.

    Args:
        label: what is being done, such as 'tokenizing'.
        total: amount in all, in ``unit`` times ``scale``.
        unit: what the rate is shown in, such as 'MB'.
        scale: amount that makes one unit.
        done: amount that was done before (by a run that was interrupted); it does not count for the rate.
    """

    def __init__(
        self, label: str, total: float, unit: str, scale: float = 1.0, done: float = 0.0, file: TextIO | None = None
    ):
        self._label, self._total, self._unit, self._scale = label, total, unit, scale
        self._done = self._before = done
        self._file = file or sys.stderr  # as it is now: the command line replaces it
        self._terminal = self._file.isatty()
        self._began = self._shown = time.monotonic()

    def add(self, amount: float) -> None:
        """Counts more work as done, and shows it if the last time is long enough ago."""
        self._done += amount
        now = time.monotonic()
        if now - self._shown >= (SECONDS_ON_TERMINAL if self._terminal else SECONDS_ELSEWHERE):
            self._shown = now
            self._show(now)

    def _show(self, now: float) -> None:
        rate = (self._done - self._before) / max(now - self._began, 1e-9)
        left = duration((self._total - self._done) / rate) if rate > 0 else "?"
        share = 100 * self._done / self._total if self._total else 100.0
        line = f"{self._label} {share:3.0f} %, {rate / self._scale:,.1f} {self._unit}/s, {left} left"
        self._file.write(f"\r{line}\x1b[K" if self._terminal else line + "\n")
        self._file.flush()

    def finish(self) -> None:
        """Clears the line of a terminal."""
        if self._terminal:
            self._file.write("\r\x1b[K")
            self._file.flush()
