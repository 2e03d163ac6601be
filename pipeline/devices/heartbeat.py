"""Names the host that has fallen silent when a call to a slice's devices does not return.

A hung host stops the all-reduce, and with it every other host: the coordinator waits and says nothing. While a watched
call takes far longer than the ones before, each host is asked whether its gRPC server still speaks. A kernel accepts
connections for a process that hangs; only a live server answers with its HTTP/2 settings (RFC 9113, section 3.4).
"""

import contextlib
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # and empty settings of ours
FRAME_HEADER, SETTINGS = 9, 4
PROBE_SECONDS = 5.0
LEAST_SECONDS, TIMES_LONGER = 120.0, 5.0


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


class Heartbeat:
    """Watches calls to the devices.

    Args:
      hosts: ``HOST:PORT`` of each host's gRPC server; without any, nothing is watched.
      note: takes a line for people.
      least_seconds: a shorter call is never asked about; nor one that is not TIMES_LONGER than the longest before it.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        note: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
        least_seconds: float = LEAST_SECONDS,
    ):
        self._hosts, self._note, self._least = list(hosts), note, least_seconds
        self._longest = 0.0
        self._began: float | None = None
        self._changed = threading.Condition()
        if hosts:
            threading.Thread(target=self._watch, daemon=True, name="heartbeat").start()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watches one call."""
        with self._changed:
            self._began = time.monotonic()
            self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._longest = max(self._longest, time.monotonic() - self._began)
                self._began = None
                self._changed.notify()

    def _watch(self) -> None:
        patience = 0.0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._began is not None)
                began = self._began
                patience = max(self._least, TIMES_LONGER * self._longest)
                left = self._changed.wait_for(lambda: self._began != began, timeout=patience)  # noqa: B023
            while not left:
                self._note(self.state(patience))
                patience *= 2
                with self._changed:
                    left = self._changed.wait_for(lambda: self._began != began, timeout=patience / 2)  # noqa: B023

    def state(self, seconds: float) -> str:
        """Asks every host; returns a line that names those that are silent."""
        with ThreadPoolExecutor(len(self._hosts)) as pool:
            silent = [
                f"host {number} ({host})"
                for number, (host, answers) in enumerate(zip(self._hosts, pool.map(speaks, self._hosts), strict=True))
                if not answers
            ]
        usual = f"the longest before took {self._longest:.0f} s" if self._longest else "it is the first one"
        found = f"no answer from {', '.join(silent)}" if silent else "all hosts answer"
        return f"a loop of steps has not returned for {seconds:.0f} s ({usual}): {found}, of {len(self._hosts)}"
