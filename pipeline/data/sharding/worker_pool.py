"""Worker processes for idempotent units: a killed parent or child leaves nothing half-done.

Smaller than the standard library's pools and different in three ways: it draws tasks only when a worker is free (they
may carry megabytes), a dead worker ends the run with a one-line error, and workers die with their parent. As there, a
worker can be replaced after some tasks, which limits whatever a library caches.
"""

import gc
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import connection
from typing import Any, Generic, TypeVar

from pipeline.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")
MOST_WORKERS = 8  # per processor of this process; more would wait for each other, and thousands stall the machine
_FORK = multiprocessing.get_context("fork")  # workers inherit what the parent has loaded; the parent runs no threads


class WorkerDiedError(RuntimeError):
    """A worker ended without a message, most often killed for lack of memory."""


def bounded(workers: int) -> int:
    """The number of processes to run for a request of ``workers``."""
    return min(workers, MOST_WORKERS * len(os.sched_getaffinity(0)))


class Pool(Generic[Task, Result]):
    """Runs tasks in workers. A context manager: on any exit, all workers are gone."""

    def __init__(self, do: Callable[[Task], Result], workers: int, lifetime: int | None = None):
        """Starts nothing yet: a worker starts when there is a task and none is idle.

        There are at most ``bounded(workers)``; a new one replaces each after ``lifetime`` tasks (None: never).
        """
        self._do, self._lifetime = do, lifetime
        self._count = bounded(workers)
        self._workers: dict[connection.Connection, Any] = {}
        self._done: dict[connection.Connection, int] = {}

    def __enter__(self) -> "Pool[Task, Result]":
        gc.freeze()  # otherwise each worker's collector would walk, and so copy, all that it inherits
        return self

    def _start(self) -> connection.Connection:
        ours, theirs = _FORK.Pipe()
        process = _FORK.Process(target=_work, args=(self._do, theirs, ours), daemon=True)
        process.start()
        theirs.close()
        self._workers[ours], self._done[ours] = process, 0
        return ours

    def __exit__(self, *_: object) -> None:
        for pipe, process in self._workers.items():
            pipe.close()
            process.terminate()
        for process in self._workers.values():
            process.join()

    def run(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Result]]:
        """Yields (task, result) in the order of completion.

        Raises:
            WorkerDiedError: a worker was killed.
            Exception: whatever a task raised; UserError unchanged, anything else as RuntimeError with its traceback.
        """
        waiting, idle = iter(tasks), list(self._workers)
        busy: dict[connection.Connection, Task] = {}
        upcoming = next(waiting, None)  # drawn ahead, so that no worker waits for the source
        while upcoming is not None or busy:
            while (idle or len(self._workers) < self._count) and upcoming is not None:
                pipe = idle.pop() if idle else self._start()
                self._send(pipe, upcoming)
                busy[pipe] = upcoming
                upcoming = next(waiting, None)
            ready = set(connection.wait(list(busy)))
            for pipe in [pipe for pipe in busy if pipe in ready]:
                task = busy.pop(pipe)
                yield task, self._receive(pipe)
                idle.append(self._fresh(pipe))

    def _fresh(self, pipe: connection.Connection) -> connection.Connection:
        """Returns the pipe of a worker that may run one more task: this one, or its replacement."""
        self._done[pipe] += 1
        if self._done[pipe] != self._lifetime:
            return pipe
        self._send(pipe, None)
        self._workers.pop(pipe).join()
        pipe.close()
        return self._start()

    def _send(self, pipe: connection.Connection, task: Task | None) -> None:
        try:
            pipe.send(task)
        except (BrokenPipeError, ConnectionResetError):
            self._died(pipe)

    def _receive(self, pipe: connection.Connection) -> Result:
        try:
            failure, result = pipe.recv()
        except (EOFError, ConnectionResetError):
            self._died(pipe)
        if failure:
            raise failure
        return result

    def _died(self, pipe: connection.Connection) -> Any:
        process = self._workers[pipe]
        process.join(5)
        code = process.exitcode
        how = f"by signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"with exit code {code}"
        hint = ": is there enough memory?" if code == -signal.SIGKILL else ""
        raise WorkerDiedError(f"a worker ended {how}{hint}") from None


def _die_with_parent() -> None:
    sentinel = multiprocessing.parent_process()

    def watch() -> None:
        if sentinel is not None:
            connection.wait([sentinel.sentinel])
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _work(do: Callable[[Any], Any], pipe: connection.Connection, parents: connection.Connection) -> None:
    parents.close()  # otherwise the pipe would never end
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers Ctrl-C
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _die_with_parent()
    while True:
        try:
            task = pipe.recv()
        except (EOFError, OSError):
            return
        if task is None:  # no more tasks for this worker
            return
        try:
            pipe.send((None, do(task)))
        except (UserError, OSError) as error:
            pipe.send((error, None))
        except Exception as error:
            pipe.send((RuntimeError(f"{type(error).__name__}: {error}\n{traceback.format_exc()}"), None))
