"""A run directory: its files, and the check that keeps a run from overwriting another's results.

    config.gin  run.json  tokenizer.json  checkpoints/  metrics.jsonl  tensorboard/  summary.json  samples.txt
    began.txt  incidents.jsonl  wandb/  wandb_id.txt

``run.json`` is the machine-readable configuration: evaluation and generation build the model from it, and a repeated
command is checked against it.
"""

import dataclasses
import fcntl
import json
import os
from typing import Any

from pipeline import storage
from pipeline.errors import UserError


def with_present_names(record: dict[str, Any]) -> dict[str, Any]:
    """Returns a record of metrics.jsonl, of any version, with the current names."""
    return {{"tokens_per_s": "tokens_per_second"}.get(name, name): value for name, value in record.items()}


class RunDirectory:
    """Paths of one run, local or ``gs://``, and its JSON documents."""

    def __init__(self, path: str):
        self.path = path.rstrip("/")

    def join(self, name: str) -> str:
        """Returns the path of a file or folder of the run."""
        return os.path.join(self.path, name)

    def exists(self, name: str) -> bool:
        """Whether a file of the run exists; UserError without permission to check."""
        return storage.size(self.join(name)) is not None

    def read_text(self, name: str) -> str:
        """Returns a text file of the run; UserError if this is not a run directory."""
        try:
            return storage.read_bytes(self.join(name)).decode()
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(f"{self.path}: no {name} there; expected the run directory of pipeline.train") from None
        except UnicodeDecodeError as error:
            raise UserError(f"{self.join(name)}: damaged, not UTF-8 text ({error})") from None

    def read_json(self, name: str) -> Any:
        """Returns a JSON document of the run; UserError if it is damaged or this is not a run directory."""
        try:
            return json.loads(self.read_text(name))
        except ValueError:
            raise UserError(f"{self.join(name)}: damaged, not JSON") from None

    def write(self, name: str, text: str) -> None:
        """Replaces a small text file atomically: a kill leaves the old or the new one."""
        if not storage.is_remote(self.path):
            os.makedirs(self.path, exist_ok=True)
        storage.replace_bytes(text.encode(), self.join(name))

    def write_json(self, name: str, document: Any) -> None:
        """Replaces a JSON document atomically."""
        self.write(name, json.dumps(document, indent=2, ensure_ascii=False) + "\n")

    def read_or_create(self, name: str, text: str) -> str:
        """Returns a small text file; creates it with ``text`` if it is missing."""
        if not self.exists(name):
            self.write(name, text)
        return self.read_text(name)

    def lock(self) -> None:
        """Locks a local directory until this process ends in any way; UserError if another one trains there."""
        if storage.is_remote(self.path):  # Cloud Storage has no locks that are released when a process is killed
            return
        try:
            os.makedirs(self.path, exist_ok=True)
            descriptor = os.open(self.join(".lock"), os.O_RDWR | os.O_CREAT, 0o666)  # closed by the kernel only
        except OSError as error:
            raise UserError(f"--run_dir={self.path} cannot be written to ({error.strerror})") from None
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise UserError(
                f"--run_dir={self.path}: another process is training there; wait for it, or choose another directory"
            ) from None

    def claim(self, identity: dict[str, dict[str, Any]], ignored: frozenset[str]) -> bool:
        """Writes ``run.json`` in a new directory, or checks the run against the existing one and returns True.

        Args:
            identity: sections (``train``, ``model``, …) of JSON values that identify the run.
            ignored: keys that may differ between two starts of one run.

        Raises:
            UserError: the directory holds another run (the message names the values that differ), or another process is
                training in it.
        """
        if self.exists("run.json"):
            self.check(identity, ignored)
            self.lock()
            return True
        if not storage.is_empty(self.path):
            raise UserError(f"--run_dir={self.path} holds files but not a run; expected a new or empty directory")
        self.lock()
        self.write_json("run.json", identity)
        return False

    def check(self, identity: dict[str, dict[str, Any]], ignored: frozenset[str]) -> None:
        """Checks a run against the existing one, as ``claim`` does, without a lock; UserError if they differ."""
        here, there = _flat(json.loads(json.dumps(identity))), _flat(self.read_json("run.json"))
        differing = [
            f"{name} is {there.get(name)!r} there and {here.get(name)!r} here"
            for name in sorted({*there, *here})
            if name.partition(".")[2] not in ignored and there.get(name) != here.get(name)
        ]
        if differing:
            raise UserError(
                f"--run_dir={self.path} holds another run: {'; '.join(differing[:4])}"
                f"{f'; and {len(differing) - 4} more' if len(differing) > 4 else ''}; expected a new directory"
            )


def _flat(sections: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()}


def as_json(configuration: Any) -> dict[str, Any]:
    """Returns a configuration dataclass as JSON values, with the name of its class under ``kind``."""
    return {"kind": type(configuration).__name__, **dataclasses.asdict(configuration)}
