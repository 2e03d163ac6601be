"""Goodput: the seconds of a run by purpose, from its first start to its end, over all of its restarts.

The clock always counts for exactly one part, so the parts add up to the wall clock.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

PARTS = {
    "compile": "tracing, compiling and running the first step of each process",
    "input_wait": "training steps that wait for their batch",
    "step": "training steps: the only part that trains",
    "evaluation": "scoring the validation part, keeping the best weights, writing samples",
    "checkpoint": "copying the state off the devices, and waiting for the previous checkpoint",
    "restart": "starting a process, the first included; steps lost after the checkpoint that it continues from, and "
    "the time in which no process ran",
    "other": "writing records and progress",
}


class Clock:
    """Wall-clock seconds of a run by part.

    Args:
        began: Unix time of the run's first start; None is now.
        spent: seconds by part up to the checkpoint that this process resumes from. The time since then, or since
            ``began`` if there is none, counts as restart.
    """

    def __init__(self, began: float | None = None, spent: Mapping[str, float] | None = None):
        self._spent = dict.fromkeys(PARTS, 0.0) | dict(spent or {})
        passed = 0.0 if began is None else time.time() - began
        self._spent["restart"] += max(0.0, passed - sum(self._spent.values()))  # 0: this machine's clock is behind
        self._running, self._since = "other", time.perf_counter()

    @contextmanager
    def spent_on(self, part: str) -> Iterator[None]:
        """Counts the time within the block for a part; a nested block's time counts only for its own part."""
        before = self._running
        self._switch(part)
        try:
            yield
        finally:
            self._switch(before)

    def move(self, seconds: float, source: str, target: str) -> None:
        """Moves seconds measured in one part to another."""
        self._spent[source] -= seconds
        self._spent[target] += seconds

    def seconds(self) -> dict[str, float]:
        """Returns the seconds of each part so far."""
        self._switch(self._running)
        return dict(self._spent)

    def rounded(self) -> dict[str, float]:
        """Returns the seconds to the millisecond, as they are written."""
        return {part: round(seconds, 3) for part, seconds in self.seconds().items()}

    def goodput(self) -> float:
        """Returns the share of the wall clock that was spent on training steps."""
        seconds = self.seconds()
        return seconds["step"] / max(sum(seconds.values()), 1e-9)

    def _switch(self, part: str) -> None:
        now = time.perf_counter()
        self._spent[self._running] += now - self._since
        self._running, self._since = part, now
