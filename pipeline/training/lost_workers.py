"""Lost workers: the process exits with a code that makes a supervisor restart it.

Maintenance and preemption take Cloud TPUs away. The coordinator's remote calls then fail. Nothing in the process can be
trusted, so it does not save, and the steps since the last checkpoint are lost.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import tensorflow as tf

from pipeline.errors import WorkerLostError

# Raised by TensorFlow when a remote worker stops, restarts, or has lost the resources of its predecessor.
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


@contextmanager
def restartable() -> Iterator[None]:
    """Turns the errors of a lost worker into WorkerLostError; other errors pass unchanged."""
    try:
        yield
    except tf.errors.OpError as error:
        if not isinstance(error, _ALWAYS) and not (isinstance(error, _WITH_A_SIGN) and _SIGNS.search(str(error))):
            raise
        lines = [line.strip() for line in str(error).splitlines()]
        message = next((line for line in lines if line and line != "Graph execution error:"), "")
        raise WorkerLostError(f"a worker was lost ({type(error).__name__}: {message[:200]})") from error
