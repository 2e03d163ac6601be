"""Contenders that take turns, of which the best counts: other work on the machine can only slow a turn down."""

import time
from collections.abc import Callable, Mapping


def best_seconds(contenders: Mapping[str, Callable[[], object]], turns: int) -> dict[str, float]:
    """Calls each contender once, which compiles it, and then in turns; returns the seconds of each one's best turn."""
    for contender in contenders.values():
        contender()
    best = dict.fromkeys(contenders, float("inf"))
    for _ in range(turns):
        for name, contender in contenders.items():
            start = time.perf_counter()
            contender()
            best[name] = min(best[name], time.perf_counter() - start)
    return best
