"""The ledger of a sweep: which worker runs which cell, and its outcome; one small document per cell.

A claim is a lock on a local file, which the kernel releases when the worker and the run that it started have both
ended. In a local directory that is enough. Under ``gs://`` machines do not see each other's locks: there a worker also
claims the document itself, by its generation, and renews the claim while the cell runs. Another machine's claim expires
if it is not renewed for LEASE_SECONDS of this machine's own clock, so clocks need not agree.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import tempfile
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from pipeline import storage
from pipeline.errors import UnavailableError

RUNNING, DONE, FAILED, MISFIT = "running", "done", "failed", "does not fit"
ENDED = (DONE, FAILED, MISFIT)
LEASE_SECONDS = 600.0  # longer than a stopping run may take to save
RENEWALS = 6  # of a lease

Entry = dict[str, Any]  # a cell's document


@dataclass
class Claim:
    """The right to run the cell with this key, with its ledger document."""

    key: str
    lock: int  # a descriptor that holds the claim; a run that inherits it also holds the claim
    entry: Entry
    version: int  # of the document
    renewed: float = field(default_factory=time.monotonic)  # for the last time
    lost: bool = False  # to another machine, such as by sleeping longer than a lease


class Ledger:
    """The documents of a sweep, in a local or ``gs://`` folder.

    A document's version is its object's generation on Cloud Storage, which rejects a write if that has changed. On a
    local disk it is unused: the writer holds the document's lock.
    """

    def __init__(self, folder: str):
        self._folder, self._remote = folder, storage.is_remote(folder)
        name = hashlib.sha256(folder.encode()).hexdigest()[:12]
        locks = os.path.join(tempfile.gettempdir(), f"sweep-{os.getuid()}-{name}") if self._remote else folder
        self._locks = pathlib.Path(locks)
        self._machine = _identity(self._locks) if self._remote else ""
        self._seen: dict[str, tuple[int, float]] = {}  # another machine's claim: its version, and since when

    def entries(self) -> dict[str, Entry]:
        """Returns all documents by the cell's key."""
        files = [path.rpartition("/")[2] for path, _ in storage.list_files(self._folder, deep=False) or []]
        documents = {key: self.read(key) for key, ending in sorted(map(os.path.splitext, files)) if ending == ".json"}
        return {key: entry for key, entry in documents.items() if entry is not None}

    def read(self, key: str) -> Entry | None:
        """Returns the document of a cell, or None if there is none."""
        return self._read(key)[0]

    def claim(self, key: str, facts: Entry, *, again: Collection[str] = ()) -> Claim | None:
        """Claims a cell; returns the claim, or None if another worker runs it or it has ended.

        The document gets ``facts``, such as the cell's overrides. A cell that ended in one of the states ``again``,
        such as FAILED, is claimed again.
        """
        lock = self._lock(key)
        if lock is None:
            return None
        entry, version = self._read(key)
        before = entry or {}
        ended = before.get("state") in ENDED and before["state"] not in again
        if not ended and not self._held_elsewhere(key, before, version):
            claimed = {
                **facts,
                "state": RUNNING,
                "machine": self._machine,
                "process": os.getpid(),
                "attempt": before.get("attempt", 0) + 1,
                "renewal": 0,
            }
            changed = self._swap(key, claimed, version)
            if changed is not None:
                return Claim(key, lock, claimed, changed)
        os.close(lock)
        return None

    def renew(self, claim: Claim) -> bool:
        """Renews the claim when due, for other machines to see; returns False if another has taken it over."""
        if self._remote and not claim.lost and time.monotonic() - claim.renewed >= LEASE_SECONDS / RENEWALS:
            claim.renewed = time.monotonic()
            with contextlib.suppress(UnavailableError):  # no network: the next renewal shows who has the cell
                claim.lost = not self._replace(claim, claim.entry | {"renewal": claim.entry["renewal"] + 1})
        return not claim.lost

    def end(self, claim: Claim, state: str, **facts: object) -> None:
        """Records a cell's outcome and releases its claim."""
        self._replace(claim, claim.entry | {"state": state} | facts)
        os.close(claim.lock)

    def release(self, claim: Claim) -> None:
        """Releases an unfinished cell for any worker to take."""
        self._replace(claim, claim.entry | {"state": "stopped", "machine": ""})
        os.close(claim.lock)

    def _replace(self, claim: Claim, entry: Entry) -> bool:
        version = self._swap(claim.key, entry, claim.version)
        if version is not None:
            claim.entry, claim.version = entry, version
        return version is not None

    def _read(self, key: str) -> tuple[Entry | None, int]:
        """Returns a document, or None if there is none, and its version."""
        path = storage.join(self._folder, f"{key}.json")
        if not self._remote:
            return (json.loads(storage.read_bytes(path)) if storage.size(path) is not None else None), 0
        from pipeline.storage import gcs

        data, generation = gcs.read_version(path)
        return (None if data is None else json.loads(data)), generation

    def _swap(self, key: str, entry: Entry, version: int) -> int | None:
        """Replaces a document of this version; returns the new version, or None if the version has changed."""
        path, data = storage.join(self._folder, f"{key}.json"), json.dumps(entry).encode() + b"\n"
        if not self._remote:
            storage.replace_bytes(data, path)
            return version
        from pipeline.storage import gcs

        return gcs.replace_version(path, data, version)

    def _lock(self, key: str) -> int | None:
        self._locks.mkdir(parents=True, exist_ok=True)
        lock = os.open(self._locks / f"{key}.lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            return None
        return lock

    def _held_elsewhere(self, key: str, entry: Entry, version: int) -> bool:
        """Returns whether another machine's worker runs the cell; on this machine or disk it would hold the lock."""
        if not self._remote or entry.get("state") != RUNNING or entry["machine"] == self._machine:
            return False
        seen, since = self._seen.get(key, (None, 0.0))
        if seen != version:
            self._seen[key] = version, time.monotonic()
            return True
        return time.monotonic() - since < LEASE_SECONDS


def _identity(locks: pathlib.Path) -> str:
    """Returns an id shared by all processes that see these locks; each machine or container has its own."""
    locks.mkdir(parents=True, exist_ok=True)
    path, partial = locks / "machine", locks / f".machine.{os.getpid()}"
    partial.write_text(os.urandom(8).hex())
    with contextlib.suppress(FileExistsError):
        os.link(partial, path)
    partial.unlink()
    return path.read_text(encoding="utf-8")
