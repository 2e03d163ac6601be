"""Committed checkpoints: a folder of files, whose sizes and checksums are in a file written last."""

import contextlib
import dataclasses
import json
import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

import google_crc32c
import tensorflow as tf

from pipeline import storage
from pipeline.errors import UserError

gfile = tf.io.gfile
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
    """A committed checkpoint whose files have changed since."""


def steps(directory: str) -> list[int]:
    """Returns the steps of all committed checkpoints, sound or not, ascending."""
    return [step for step, committed in _folders(directory) if committed]


def newest_sound(directory: str) -> tuple[Checkpoint, set[int]] | None:
    """Returns the newest sound checkpoint and the steps of damaged newer ones; None if nothing was ever committed.

    Raises:
        UserError: there are committed checkpoints, but none is sound.
    """
    damaged: set[int] = set()
    for step, committed in reversed(list(_folders(directory))):
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


@contextlib.contextmanager
def _allowed(path: str) -> Iterator[None]:
    """Turns a permission error of the disk or of Cloud Storage into one sentence."""
    try:
        yield
    except tf.errors.PermissionDeniedError as error:
        raise UserError(f"{path}: cannot be read ({error.message.splitlines()[0]})") from error


def _folders(directory: str) -> Iterator[tuple[int, bool]]:
    """Yields (step, whether it is committed) of each checkpoint folder, ascending."""
    if not gfile.isdir(directory):
        return
    with _allowed(directory):
        names = sorted(entry.rstrip("/") for entry in gfile.listdir(directory))
    for name in names:
        if name.startswith("step-") and name[5:].isdigit():
            yield int(name[5:]), storage.size(f"{directory.rstrip('/')}/{name}/{COMMIT}") is not None


def folder_name(step: int) -> str:
    return f"step-{step:08d}"


def load(folder: str) -> Checkpoint:
    """Reads a committed checkpoint and checks every byte of it; raises DamagedError."""
    with _allowed(folder):
        return _load(folder)


def _load(folder: str) -> Checkpoint:
    try:
        document = json.loads(gfile.GFile(f"{folder}/{COMMIT}").read())
        checkpoint = Checkpoint(document["step"], document["metadata"], folder, document["files"])
    except (ValueError, KeyError, TypeError, tf.errors.NotFoundError) as error:
        raise DamagedError(f"{COMMIT} is not readable: {error}") from error
    for name, expected in checkpoint.files.items():
        try:
            actual = measure(f"{folder}/{name}")
        except tf.errors.NotFoundError as error:
            raise DamagedError(f"{name} is missing") from error
        if actual != expected:
            raise DamagedError(f"{name} has {actual}, committed was {expected}")
    return checkpoint


def is_sound(folder: str) -> bool:
    try:
        load(folder)
    except DamagedError:
        return False
    return True


def measure(path: str) -> dict[str, Any]:
    """Returns the current bytes and crc32c of a file."""
    size, crc = 0, 0
    with gfile.GFile(path, "rb") as file:
        while chunk := file.read(READ_BYTES):
            size, crc = size + len(chunk), google_crc32c.extend(crc, chunk)
    return {"bytes": size, "crc32c": f"{crc:08x}"}


def commit(folder: str, text: str) -> None:
    """Writes the commit atomically, after everything else in the folder has reached the disk."""
    if "://" in folder:
        with gfile.GFile(f"{folder}/{COMMIT}", "w") as file:
            file.write(text)
        return
    temporary = f"{folder}/.{COMMIT}"
    with open(temporary, "w", encoding="utf-8") as local:
        local.write(text)
    for name in [*os.listdir(folder), "."]:
        descriptor = os.open(os.path.join(folder, name), os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    os.replace(temporary, f"{folder}/{COMMIT}")
