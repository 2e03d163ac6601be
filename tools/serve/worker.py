"""The single thread that runs requests, and the bounded queue before it.

A model's operations already use all cores, so requests run one at a time; if ``waiting`` of them wait, the next is
rejected at once. If a client disconnects, its request leaves the queue, or stops after the current token.
"""

import asyncio
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any


class BusyError(Exception):
    """The queue is full."""


class Job:
    """One request's work; its results are read on the event loop that created it."""

    def __init__(self, work: Callable[[], Iterator[Any]], left: Callable[["Job"], None]):
        self._work, self._left = work, left
        self._loop = asyncio.get_running_loop()
        self._results: asyncio.Queue = asyncio.Queue()
        self._closed = threading.Event()

    def run(self) -> None:
        """Does the work on the worker's thread; errors are raised where the results are read."""
        failure = None
        try:
            results = iter(()) if self._closed.is_set() else self._work()
            for result in results:
                self._send((result, None, False))
                if self._closed.is_set():
                    break
        except Exception as error:
            failure = error
        self.close()
        self._send((None, failure, True))

    def _send(self, message: tuple[Any, Exception | None, bool]) -> None:
        try:
            self._loop.call_soon_threadsafe(self._results.put_nowait, message)
        except RuntimeError:  # the event loop has ended: nobody can read this
            self._closed.set()

    def close(self) -> None:
        """Leaves the queue, or stops the work after its next result. Closing again does nothing."""
        self._closed.set()
        self._left(self)

    async def results(self) -> AsyncGenerator[Any, None]:
        """Yields the work's results; a reader that stops closes the job."""
        try:
            while True:
                result, failure, last = await self._results.get()
                if failure:
                    raise failure
                if last:
                    return
                yield result
        finally:
            self.close()


class Worker:
    """A thread and the queue before it, in which ``waiting`` requests may wait while one runs."""

    def __init__(self, waiting: int):
        self._most = waiting + 1
        self._open: set[Job] = set()
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    @property
    def open(self) -> int:
        """The number of requests that run or wait."""
        return len(self._open)

    def submit(self, work: Callable[[], Iterator[Any]]) -> Job:
        """Puts work into the queue.

        Raises:
            BusyError: the queue is full.
        """
        with self._lock:
            if len(self._open) >= self._most:
                raise BusyError
            job = Job(work, self._leave)
            self._open.add(job)
        self._queue.put(job)
        return job

    def stop(self) -> None:
        """Closes all jobs and waits for the thread to end."""
        with self._lock:
            jobs = list(self._open)
        for job in jobs:
            job.close()
        self._queue.put(None)
        self._thread.join()

    def _leave(self, job: Job) -> None:
        with self._lock:
            self._open.discard(job)

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            job.run()
