"""Names the host that stopped responding when a call to a slice's devices hangs, and ends a run that lost it.

A hung host stops the all-reduce, and so every other host: the coordinator waits and prints nothing. If a watched call
takes far longer than earlier calls of its kind, each host's gRPC server is asked whether it still responds. A kernel
accepts connections for a hung process; only a live server answers with its HTTP/2 settings (RFC 9113, section 3.4).
Independently of calls, every host is also asked all the time, and one that stays silent is lost.
"""

import contextlib
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # ends with our empty settings
FRAME_HEADER, SETTINGS = 9, 4
PROBE_SECONDS = 5.0
MIN_SECONDS, TIMES_LONGER = 120.0, 5.0
COMPILING_SECONDS = 600.0
ASK_SECONDS, ASKS = 15.0, 6  # a host that is silent this many times in a row (two minutes at most) is lost


def responds(address: str, seconds: float = PROBE_SECONDS) -> bool:
    """Whether a gRPC server answers at ``HOST:PORT`` in time."""
    host, _, port = address.removeprefix("grpc://").rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=seconds) as connection:
            connection.sendall(PREFACE)
            with connection.makefile("rb") as answer:
                header = answer.read(FRAME_HEADER)
            return len(header) == FRAME_HEADER and header[3] == SETTINGS
    except (OSError, ValueError):
        return False


@dataclass(frozen=True, eq=False)
class _Call:
    """A running call: its kind, the seconds of its kind's longest, and the seconds after which to ask."""

    kind: str
    longest: float
    timeout: float


class Heartbeat:
    """Watches calls to the devices, one at a time.

    Args:
        hosts: ``HOST:PORT`` of each host's gRPC server; without any, nothing is watched.
        note: prints a line.
        min_seconds: hosts are asked only during calls longer than this and longer than TIMES_LONGER × the longest of
            their kind.
        compiling_seconds: ``min_seconds`` of a kind's first call if it compiles; the second call should not take longer
            than the first.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        note: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
        min_seconds: float = MIN_SECONDS,
        compiling_seconds: float = COMPILING_SECONDS,
    ):
        self._hosts, self._note = list(hosts), note
        self._minimum, self._compiling = min_seconds, compiling_seconds
        # By kind: a compilation says nothing about a loop of steps.
        self._longest: dict[str, float] = {}
        self._compiled: dict[str, float] = {}  # seconds of the first call, for kinds that compile
        self._call: _Call | None = None
        self._changed = threading.Condition()
        if hosts:
            threading.Thread(target=self._watch, daemon=True, name="heartbeat").start()

    @contextlib.contextmanager
    def watching(self, kind: str, *, compiles: bool = False) -> Iterator[None]:
        """Watches a call of a kind ("a loop of steps"), whose first call may compile, which takes minutes."""
        longest, compiled = self._longest.get(kind, 0.0), self._compiled.get(kind, 0.0)
        first = not longest and not compiled
        expected = TIMES_LONGER * longest if longest else compiled
        timeout = max(self._compiling if compiles and first else self._minimum, expected)
        self._set_call(_Call(kind, longest or compiled, timeout))
        began = time.monotonic()
        try:
            yield
        finally:
            took = time.monotonic() - began
            if compiles and first:
                self._compiled[kind] = took
            else:
                self._longest[kind] = max(longest, took)
            self._set_call(None)

    def _set_call(self, call: _Call | None) -> None:
        with self._changed:
            self._call = call
            self._changed.notify()

    def _watch(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._call is not None)
                call = self._call
                assert call is not None
            waited, timeout = 0.0, call.timeout
            while not self._returns_within(call, timeout - waited):
                self._note(self.state(call, timeout))
                waited, timeout = timeout, 2 * timeout

    def _returns_within(self, call: _Call, seconds: float) -> bool:
        """Waits for a call's end; returns whether it ended in time."""
        with self._changed:
            return self._changed.wait_for(lambda: self._call is not call, timeout=seconds)

    @contextlib.contextmanager
    def guarded(self, lost: Callable[[str], None]) -> Iterator[None]:
        """Calls ``lost`` with a line, in a thread, once a host has been silent ASKS times in a row.

        The calling thread may wait for that host forever, even while it ends because of an error.
        """
        done = threading.Event()
        if self._hosts:
            threading.Thread(target=self._guard, args=(done, lost), daemon=True, name="guard").start()
        yield
        done.set()

    def _guard(self, done: threading.Event, lost: Callable[[str], None]) -> None:
        misses: dict[str, int] = {}  # in a row, by host
        while not done.wait(ASK_SECONDS):
            misses = {host: misses.get(host, 0) + 1 for host in self.silent()}
            gone = [host for host, count in misses.items() if count >= ASKS]
            if gone and not done.is_set():
                lost(f"{', '.join(gone)} did not answer, asked {ASKS} times, every {ASK_SECONDS:g} s")
                return

    def silent(self) -> list[str]:
        """Asks every host; returns those that do not answer."""
        with ThreadPoolExecutor(len(self._hosts)) as pool:
            answers = list(pool.map(responds, self._hosts))
        return [f"host {i} ({host})" for i, host in enumerate(self._hosts) if not answers[i]]

    def state(self, call: _Call, seconds: float) -> str:
        """Asks every host; returns a line that names those that do not answer."""
        silent = self.silent()
        usual = f"the longest before took {call.longest:.0f} s" if call.longest else "it is the first one"
        result = f"no answer from {', '.join(silent)}" if silent else "all hosts answer"
        return f"{call.kind} has not returned for {seconds:.0f} s ({usual}): {result}, of {len(self._hosts)}"
