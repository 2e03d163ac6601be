"""Goodput: what each second of a run was spent on, from its first start to its end, over all of its restarts.

The clock always runs for exactly one of its parts, so that their sum is the wall clock.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

PARTS = {
    "compile": "tracing, compiling and running the first step of each process",
    "input_wait": "training steps that wait for their batch",
    "step": "training steps: the only part that trains",
    "evaluation": "scoring the validation part, keeping the best weights, writing samples",
    "checkpoint": "copying the state off the devices, and waiting for the checkpoint before",
    "restart": "starting a process, the first included; steps that ran after the checkpoint it goes on from, and the "
    "time in which no process ran",
    "other": "writing records and progress",
}


class Clock:
    """Wall-clock seconds of a run by part.

    Args:
      began: Unix time of the run's first start; None is now.
      spent: seconds by part up to the checkpoint that this process goes on from. What has passed since, or since
        ``began`` where there is none, is the price of the restart.
    """

    def __init__(self, began: float | None = None, spent: Mapping[str, float] | None = None):
        self._spent = dict.fromkeys(PARTS, 0.0) | dict(spent or {})
        passed = 0.0 if began is None else time.time() - began
        self._spent["restart"] += max(0.0, passed - sum(self._spent.values()))  # 0: another machine's clock is behind
        self._running, self._since = "other", time.perf_counter()

    @contextmanager
    def spent_on(self, part: str) -> Iterator[None]:
        """Books the time within to a part; inside another one's, it is taken from that."""
        before = self._running
        self._switch(part)
        try:
            yield
        finally:
            self._switch(before)

    def move(self, seconds: float, source: str, target: str) -> None:
        """Books seconds that were measured inside one part to another."""
        self._spent[source] -= seconds
        self._spent[target] += seconds

    def seconds(self) -> dict[str, float]:
        """Returns the seconds of each part until now."""
        self._switch(self._running)
        return dict(self._spent)

    def goodput(self) -> float:
        """Returns the share of the wall clock that was spent on training steps."""
        seconds = self.seconds()
        return seconds["step"] / max(sum(seconds.values()), 1e-9)

    def _switch(self, part: str) -> None:
        now = time.perf_counter()
        self._spent[self._running] += now - self._since
        self._running, self._since = part, now
