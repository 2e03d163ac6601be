"""Committed checkpoints: a folder of files; a file written last has their sizes and checksums."""

import dataclasses
import json
import logging
import os
from collections.abc import Mapping
from typing import Any

import google_crc32c

from pipeline import storage
from pipeline.errors import UserError

log = logging.getLogger(__name__)

COMMIT = "commit.json"
READ_BYTES = 1 << 24


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint: its step, metadata and folder, and the size and checksum of its files."""

    step: int
    metadata: Mapping[str, Any]
    folder: str
    files: Mapping[str, Mapping[str, Any]]


class DamagedError(Exception):
    """A committed checkpoint whose files changed later."""


def steps(directory: str) -> list[int]:
    """Returns the steps of all committed checkpoints, damaged or not, ascending."""
    return [step for step, committed in _folders(directory) if committed]


def newest_sound(directory: str) -> tuple[Checkpoint, set[int]] | None:
    """Returns the newest undamaged checkpoint and the steps of damaged newer ones; None if nothing was committed.

    UserError if all committed checkpoints are damaged.
    """
    damaged: set[int] = set()
    for step, committed in reversed(_folders(directory)):
        folder = f"{directory.rstrip('/')}/{folder_name(step)}"
        if not committed:
            log.warning("checkpoint %s was not finished, skipping it", folder)
            continue
        try:
            return load(folder), damaged
        except DamagedError as damage:
            log.warning("checkpoint %s is damaged (%s), skipping it", folder, damage)
            damaged.add(step)
    if damaged:
        raise UserError(
            f"none of the {len(damaged)} checkpoint(s) in {directory} is sound; "
            "expected at least one, or a new run directory"
        )
    return None


def _folders(directory: str) -> list[tuple[int, bool]]:
    """Returns (step, whether it is committed) of each checkpoint folder that holds files, ascending."""
    prefix = directory.rstrip("/")
    committed: dict[int, bool] = {}
    for path, _ in storage.list_files(prefix) or []:
        folder, _, file = path.removeprefix(prefix + "/").partition("/")
        if folder.startswith("step-") and folder[5:].isdigit():
            committed[int(folder[5:])] = committed.get(int(folder[5:]), False) or file == COMMIT
    return sorted(committed.items())


def folder_name(step: int) -> str:
    """Returns the name of a step's checkpoint folder."""
    return f"step-{step:08d}"


def load(folder: str) -> Checkpoint:
    """Reads a committed checkpoint and checks every byte of it; raises DamagedError."""
    try:
        document = json.loads(storage.read_bytes(f"{folder}/{COMMIT}"))
        checkpoint = Checkpoint(document["step"], document["metadata"], folder, document["files"])
    except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
        raise DamagedError(f"{COMMIT} is not readable: {error}") from error
    for name, expected in checkpoint.files.items():
        try:
            actual = measure(f"{folder}/{name}")
        except FileNotFoundError as error:
            raise DamagedError(f"{name} is missing") from error
        if actual != expected:
            raise DamagedError(f"{name} has {actual}, committed was {expected}")
    return checkpoint


def measure(path: str) -> dict[str, Any]:
    """Returns the current bytes and crc32c of a file."""
    size, crc = 0, 0
    with storage.open_read(path) as file:
        while chunk := file.read(READ_BYTES):
            size, crc = size + len(chunk), google_crc32c.extend(crc, chunk)
    return {"bytes": size, "crc32c": f"{crc:08x}"}


def commit(folder: str, text: str) -> None:
    """Writes the commit atomically, after everything else in the folder has reached the disk."""
    if not storage.is_remote(folder):
        for name in [*os.listdir(folder), "."]:
            storage.sync_path(os.path.join(folder, name))
    storage.replace_bytes(text.encode(), f"{folder}/{COMMIT}")
