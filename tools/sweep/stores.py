"""Small JSON documents that several processes change: read with a version, and replaced only if it has not changed.

On a local disk a version means nothing: the writer holds the document's lock (see ledger.py). On Cloud Storage it is
the object's generation, and a write is refused if that has changed.
"""

import json
import pathlib
from typing import Any, Protocol

from pipeline import storage

Entry = dict[str, Any]


class Store(Protocol):
    """Documents by name."""

    def names(self) -> list[str]:
        """Returns the names of all documents."""

    def read(self, name: str) -> tuple[Entry | None, int]:
        """Returns a document, or None if there is none, and its version."""

    def swap(self, name: str, entry: Entry, version: int) -> int | None:
        """Replaces a document of this version; returns the new version, or None if it has another one by now."""


class LocalStore:
    """Files of a local directory, each replaced whole."""

    def __init__(self, folder: str):
        self._folder = pathlib.Path(folder)

    def names(self) -> list[str]:
        return sorted(path.stem for path in self._folder.glob("*.json"))

    def read(self, name: str) -> tuple[Entry | None, int]:
        try:
            return json.loads((self._folder / f"{name}.json").read_bytes()), 0
        except FileNotFoundError:
            return None, 0

    def swap(self, name: str, entry: Entry, version: int) -> int | None:
        self._folder.mkdir(parents=True, exist_ok=True)
        storage.replace_bytes(json.dumps(entry).encode() + b"\n", str(self._folder / f"{name}.json"))
        return version


class CloudStore:
    """Objects under a ``gs://`` address, replaced under the precondition of their generation."""

    def __init__(self, folder: str):
        self._folder = folder

    def names(self) -> list[str]:
        paths = [path for path, _ in storage.list_files(self._folder) or []]
        return sorted(path.rpartition("/")[2].removesuffix(".json") for path in paths)

    def read(self, name: str) -> tuple[Entry | None, int]:
        from pipeline.storage import gcs

        data, generation = gcs.read_version(storage.join(self._folder, f"{name}.json"))
        return (None if data is None else json.loads(data)), generation

    def swap(self, name: str, entry: Entry, version: int) -> int | None:
        from pipeline.storage import gcs

        return gcs.replace_version(storage.join(self._folder, f"{name}.json"), json.dumps(entry).encode(), version)


def store_at(folder: str) -> Store:
    """Returns the store of a local directory or a ``gs://`` address."""
    return CloudStore(folder) if storage.is_remote(folder) else LocalStore(folder)
