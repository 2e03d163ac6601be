"""The signals that ask a process to end, which saves what it has first."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# SIGUSR1: by which SLURM warns. SIGHUP: the terminal or the ssh session is gone.
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


@contextmanager
def handled(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Hands these signals to ``handler`` meanwhile.

    One that the process was started to ignore, as nohup does with SIGHUP, stays ignored; not SIGINT, which every shell
    script makes its background commands ignore.
    """
    heard = [n for n in ENDING if n == signal.SIGINT or signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heard}
    try:
        yield
    finally:
        for number, known in before.items():
            signal.signal(number, known)
