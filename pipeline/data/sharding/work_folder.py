"""The journal: a folder with each finished unit as one committed file, from which a killed run resumes.

``plan.json`` says which data set the folder belongs to; a run file (unit-00012.run) or a note (train-00003.json) gets
its name only when it is complete. A POSIX record lock keeps a second run out; the kernel releases it with the process.
"""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline import storage
from pipeline.data.sharding import sorted_runs
from pipeline.errors import UserError


def difference(existing: Mapping[str, Any], requested: Mapping[str, Any]) -> str:
    """Names the first setting that differs, with both values, or returns an empty string."""
    for key in [*requested, *(key for key in existing if key not in requested)]:
        if existing.get(key) != requested.get(key):
            return f"{key} {existing.get(key)!r}, but this command says {requested.get(key)!r}"
    return ""


class Journal:
    """The work folder of one data set, open and locked."""

    def __init__(self, folder: str, plan: Mapping[str, Any]):
        """Opens the folder, and creates it if it is missing.

        Raises:
            UserError: it belongs to other settings, or another process is working in it.
        """
        self.folder = folder
        self._created = [path for path in (os.path.dirname(folder), folder) if not os.path.isdir(path)]
        os.makedirs(folder, exist_ok=True)
        self._lock = open(os.path.join(folder, "lock"), "a", encoding="utf-8")  # noqa: SIM115  (held until close)
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"another process is writing this data set: its lock is {folder}/lock") from error
        self._check_plan(plan)
        storage.remove_partial(folder)  # a kill left it
        for name in sorted(os.listdir(folder)):  # redo a unit that a power cut left broken
            if name.startswith("unit-") and not sorted_runs.is_whole(self.path(name)):
                os.unlink(self.path(name))

    def _check_plan(self, plan: Mapping[str, Any]) -> None:
        requested = json.loads(json.dumps(plan))
        if not os.path.exists(self.path("plan.json")):
            storage.publish_bytes(json.dumps(requested, indent=1).encode(), self.path("plan.json"))
            return
        with open(self.path("plan.json"), encoding="utf-8") as file:
            existing = json.load(file)
        if mismatch := difference(existing, requested):
            raise UserError(
                f"{self.folder} holds the unfinished work of another data set, with {mismatch}: finish it with its own "
                "command, or delete the folder"
            )

    def path(self, name: str) -> str:
        """The path of a file in the folder."""
        return os.path.join(self.folder, name)

    def unit_path(self, index: int) -> str:
        """The path of a unit's complete run file."""
        return self.path(f"unit-{index:07d}.run")

    @contextlib.contextmanager
    def unit_file(self, index: int) -> Iterator[Any]:
        """Yields a file for a unit; it becomes the unit if the block ends without an exception."""
        with storage.partial_file(self.folder) as file:
            yield file
            os.rename(file.name, self.unit_path(index))

    def units(self) -> list[tuple[list[sorted_runs.Segment], dict[str, sorted_runs.Counts], dict[str, Any]]]:
        """Reads the footers of all finished units, in the source's order."""
        names = sorted(name for name in os.listdir(self.folder) if name.startswith("unit-"))
        return [sorted_runs.read_footer(self.path(name)) for name in names]

    def note(self, name: str, value: Any) -> None:
        """Commits a small note about finished work."""
        storage.publish_bytes(json.dumps(value).encode(), self.path(name + ".json"))

    def noted(self, name: str) -> Any | None:
        """Reads a note, or None."""
        try:
            with open(self.path(name + ".json"), encoding="utf-8") as file:
                return json.load(file)
        except FileNotFoundError:
            return None

    def close(self) -> None:
        """Releases the lock and keeps the folder, without unfinished files of dead workers."""
        sorted_runs.close_all()
        storage.remove_partial(self.folder)
        self._lock.close()

    def remove(self) -> None:
        """Deletes the folder, and the output folder too if this journal created it and it is empty."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.close()
        for path in self._created:
            with contextlib.suppress(OSError):
                os.rmdir(path)
