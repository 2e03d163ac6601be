"""A worker that goes away is no fault of the run: the process ends with a code on which a supervisor starts it again.

Cloud TPUs are taken away for maintenance and by preemption. The coordinator then sees its remote calls fail; nothing
in the process can be trusted any more, so it does not save, and what is lost is what the last checkpoint lacks.
"""

import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import tensorflow as tf

from pipeline import signals
from pipeline.errors import WorkerLostError

# What TensorFlow raises when a remote worker stops, restarts, or has lost the resources of the one before it.
_ALWAYS = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.DeadlineExceededError)
_WITH_A_SIGN = (
    tf.errors.CancelledError,
    tf.errors.FailedPreconditionError,
    tf.errors.InternalError,
    tf.errors.NotFoundError,
    tf.errors.UnknownError,
)
_SIGNS = re.compile(
    r"socket closed|connection reset|failed to connect|preempt|maintenance|unhealthy|worker.*(restart|gone|lost)"
    r"|context id|incarnation|tpu.*not.*initialized|resource.*does not exist|connection.*refused|heartbeat",
    re.IGNORECASE,
)


def is_lost_worker(error: BaseException) -> bool:
    """Returns whether an error means that a machine went away, rather than that the program is wrong."""
    if isinstance(error, _ALWAYS):
        return True
    return isinstance(error, _WITH_A_SIGN) and bool(_SIGNS.search(str(error)))


@contextmanager
def restartable() -> Iterator[None]:
    """Turns the errors of a lost worker into WorkerLostError; lets all others pass."""
    try:
        yield
    except tf.errors.OpError as error:
        if not is_lost_worker(error):
            raise
        lines = [line.strip() for line in str(error).splitlines()]
        said = next((line for line in lines if line and line != "Graph execution error:"), "")
        raise WorkerLostError(f"a worker went away ({type(error).__name__}: {said[:200]})") from error


@contextmanager
def signals_set(stop: threading.Event) -> Iterator[None]:
    """A signal that asks the process to end sets ``stop``: the loop ends and saves. A SIGINT after it interrupts."""

    def set_stop(number, frame):
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    with signals.handled(set_stop):
        yield
