"""Names the host that has fallen silent when a call to a slice's devices does not return.

A hung host stops the all-reduce, and with it every other host: the coordinator waits and says nothing. While a watched
call takes far longer than its likes before, each host is asked whether its gRPC server still speaks. A kernel accepts
connections for a process that hangs; only a live server answers with its HTTP/2 settings (RFC 9113, section 3.4).
"""

import contextlib
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # and empty settings of ours
FRAME_HEADER, SETTINGS = 9, 4
PROBE_SECONDS = 5.0
LEAST_SECONDS, TIMES_LONGER = 120.0, 5.0
COMPILING_SECONDS = 600.0


def speaks(address: str, seconds: float = PROBE_SECONDS) -> bool:
    """Whether a gRPC server answers at ``HOST:PORT`` in time."""
    host, _, port = address.removeprefix("grpc://").rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=seconds) as connection:
            connection.sendall(PREFACE)
            header = b""
            while len(header) < FRAME_HEADER:
                more = connection.recv(FRAME_HEADER - len(header))
                if not more:
                    return False
                header += more
            return header[3] == SETTINGS
    except (OSError, ValueError):
        return False


@dataclass(frozen=True, eq=False)
class _Call:
    """A call under way: its kind, the seconds that the longest of its kind took, and those after which to ask."""

    kind: str
    longest: float
    patience: float


class Heartbeat:
    """Watches calls to the devices, one at a time.

    Args:
      hosts: ``HOST:PORT`` of each host's gRPC server; without any, nothing is watched.
      note: takes a line for people.
      least_seconds: a shorter call is never asked about; nor one that is not TIMES_LONGER than the longest of its kind.
      compiling_seconds: the same for the first call of a kind that compiles; the second is not expected to take longer.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        note: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
        least_seconds: float = LEAST_SECONDS,
        compiling_seconds: float = COMPILING_SECONDS,
    ):
        self._hosts, self._note = list(hosts), note
        self._least, self._compiling = least_seconds, compiling_seconds
        # By kind: a compilation says nothing about a loop of steps.
        self._longest: dict[str, float] = {}
        self._compiled: dict[str, float] = {}  # what the first call took, of a kind that compiles
        self._call: _Call | None = None
        self._changed = threading.Condition()
        if hosts:
            threading.Thread(target=self._watch, daemon=True, name="heartbeat").start()

    @contextlib.contextmanager
    def watching(self, kind: str, *, compiles: bool = False) -> Iterator[None]:
        """Watches one call.

        Args:
          kind: what is called, as the sentence begins that tells of it: "a loop of steps".
          compiles: whether the first call of this kind compiles, for minutes.
        """
        longest, compiled = self._longest.get(kind, 0.0), self._compiled.get(kind, 0.0)
        first = not longest and not compiled
        expected = TIMES_LONGER * longest if longest else compiled
        patience = max(self._compiling if compiles and first else self._least, expected)
        self._turn_to(_Call(kind, longest or compiled, patience))
        began = time.monotonic()
        try:
            yield
        finally:
            took = time.monotonic() - began
            if compiles and first:
                self._compiled[kind] = took
            else:
                self._longest[kind] = max(longest, took)
            self._turn_to(None)

    def _turn_to(self, call: _Call | None) -> None:
        with self._changed:
            self._call = call
            self._changed.notify()

    def _watch(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._call is not None)
                call = self._call
                assert call is not None
            waited, patience = 0.0, call.patience
            while not self._has_left(call, patience - waited):
                self._note(self.state(call, patience))
                waited, patience = patience, 2 * patience

    def _has_left(self, call: _Call, seconds: float) -> bool:
        """Waits for the end of a call; returns whether it came in time."""
        with self._changed:
            return self._changed.wait_for(lambda: self._call is not call, timeout=seconds)

    def state(self, call: _Call, seconds: float) -> str:
        """Asks every host; returns a line that names those that are silent."""
        with ThreadPoolExecutor(len(self._hosts)) as pool:
            silent = [
                f"host {number} ({host})"
                for number, (host, answers) in enumerate(zip(self._hosts, pool.map(speaks, self._hosts), strict=True))
                if not answers
            ]
        usual = f"the longest before took {call.longest:.0f} s" if call.longest else "it is the first one"
        found = f"no answer from {', '.join(silent)}" if silent else "all hosts answer"
        return f"{call.kind} has not returned for {seconds:.0f} s ({usual}): {found}, of {len(self._hosts)}"
