"""The signals that ask a process to save and exit."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

# SIGUSR1: SLURM's warning. SIGHUP: the terminal or the ssh session is gone.
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


def exit_on_sigterm() -> None:
    """Makes SIGTERM end this process as Ctrl-C does, so that its temporary folders and child processes go too."""

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, leave)


@contextlib.contextmanager
def handled(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Hands these signals to ``handler`` inside the block.

    A signal that the process was started to ignore (nohup and SIGHUP) stays ignored. SIGINT does not: every shell
    script makes its background commands ignore it.
    """
    numbers = [n for n in ENDING if n == signal.SIGINT or signal.getsignal(n) != signal.SIG_IGN]
    previous = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, former in previous.items():
            signal.signal(number, former)


@contextlib.contextmanager
def set_by_signals(stop: threading.Event) -> Iterator[None]:
    """Makes these signals set ``stop``, so that the loop ends and saves; a later SIGINT interrupts."""

    def set_stop(number: int, frame: Any) -> None:
        if not stop.is_set():  # not print: the signal may have come during one
            with contextlib.suppress(OSError):  # the terminal may be gone
                os.write(2, b"\nstopping once the steps that run are saved; Ctrl-C ends at once, without them\n")
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    with handled(set_stop):
        yield
