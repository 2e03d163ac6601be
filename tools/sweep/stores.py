"""Small JSON documents that several processes change: read with a version, and replaced only if it has not changed.

On a local disk a version means nothing: the writer holds the document's lock (see ledger.py). On Cloud Storage it is
the object's generation, and a write is refused if that has changed.
"""

import json
from typing import Any

from pipeline import storage

Entry = dict[str, Any]


class Store:
    """The documents in a folder, local or ``gs://``, by name."""

    def __init__(self, folder: str):
        self._folder, self._remote = folder, storage.is_remote(folder)

    def names(self) -> list[str]:
        """Returns the names of all documents."""
        files = [path.rpartition("/")[2] for path, _ in storage.list_files(self._folder, deep=False) or []]
        return sorted(file.removesuffix(".json") for file in files if file.endswith(".json"))

    def read(self, name: str) -> tuple[Entry | None, int]:
        """Returns a document, or None if there is none, and its version."""
        path = storage.join(self._folder, f"{name}.json")
        if not self._remote:
            return (json.loads(storage.read_bytes(path)) if storage.size(path) is not None else None), 0
        from pipeline.storage import gcs

        data, generation = gcs.read_version(path)
        return (None if data is None else json.loads(data)), generation

    def swap(self, name: str, entry: Entry, version: int) -> int | None:
        """Replaces a document of this version; returns the new version, or None if it has another one by now."""
        path, data = storage.join(self._folder, f"{name}.json"), json.dumps(entry).encode() + b"\n"
        if not self._remote:
            storage.replace_bytes(data, path)
            return version
        from pipeline.storage import gcs

        return gcs.replace_version(path, data, version)
