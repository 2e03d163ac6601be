"""Google Cloud's notice that it is about to end this VM: threads wait for it during training.

The metadata server knows 30 seconds before a spot VM is preempted, 60 seconds before maintenance stops a VM, and an
hour before it stops one with GPUs. Compute Engine skips the 60 seconds for a VM that never asked. Sources:
https://cloud.google.com/compute/docs/metadata/getting-live-migration-notice
https://cloud.google.com/compute/docs/gpus/gpu-host-maintenance
https://cloud.google.com/compute/docs/instances/create-use-preemptible
"""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.devices import metadata

MAINTENANCE, PREEMPTED = "maintenance-event", "preempted"
# MIGRATE_ON_HOST_MAINTENANCE is no end: a migrated VM continues.
ENDS = {MAINTENANCE: "TERMINATE_ON_HOST_MAINTENANCE", PREEMPTED: "TRUE"}
MEANINGS = {MAINTENANCE: "stops this machine for maintenance", PREEMPTED: "has preempted this machine"}
POLL_SECONDS = 10.0  # how long the server holds a request; then it is asked again
PAUSE_SECONDS = 1.0  # between requests, so as not to flood a server that does not wait or is down for maintenance


@contextmanager
def watched(told: Callable[[str], None]) -> Iterator[None]:
    """Calls ``told`` with a sentence, from another thread, if this VM's end is announced inside the block.

    If this machine is no Google Cloud VM, or its server does not answer the first request, no thread stays. Leaving the
    block waits for no server.
    """
    watch = _Watch(told)
    if metadata.is_expected():
        for path in ENDS:
            threading.Thread(target=watch.wait_for, args=(path,), daemon=True, name=f"notice of {path}").start()
    try:
        yield
    finally:
        watch.close()


class _Watch:
    """Waits for entries of the metadata server until it is closed; ignores what comes later."""

    def __init__(self, told: Callable[[str], None]):
        self._told, self._closed, self._lock = told, threading.Event(), threading.Lock()

    def close(self) -> None:
        """Returns when ``told`` is not running and will not be called again."""
        with self._lock:
            self._closed.set()

    def wait_for(self, path: str) -> None:
        """Returns when the entry says that this VM ends, the watch is closed, or the entry does not exist at first."""
        entry = metadata.entry(path)
        if entry is None:
            return
        if path == MAINTENANCE and entry.value == ENDS[path]:
            # A VM with GPUs keeps the notice for an hour; a run that a supervisor starts meanwhile should train.
            print(f"note: Google Cloud {MEANINGS[path]} within the hour ({entry.value})", file=sys.stderr, flush=True)
        elif entry.value == ENDS[path]:
            self._tell(path)
            return
        while not self._closed.wait(PAUSE_SECONDS):
            newer = metadata.next_entry(path, entry, POLL_SECONDS)
            if newer and newer.value != entry.value and newer.value == ENDS[path]:
                self._tell(path)
                return
            entry = newer or entry

    def _tell(self, path: str) -> None:
        with self._lock:
            if not self._closed.is_set():
                self._told(f"Google Cloud {MEANINGS[path]} (instance/{path}: {ENDS[path]})")
