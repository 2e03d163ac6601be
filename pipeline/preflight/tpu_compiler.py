"""Compiles a lowered step for a TPU slice without a TPU, in a separate process, and caches the result.

Imports neither TensorFlow nor JAX: the TPU compiler (libtpu) runs in ``libtpu_process``, so that neither it nor JAX
shares a process with TensorFlow. The cache's key is the hash of the program, the slice's topology, the compiler's
version and its settings in LIBTPU_INIT_ARGS.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

from pipeline.devices import own_process
from pipeline.devices.slices import Slice
from pipeline.devices.wheels import installed
from pipeline.errors import UserError, pip_install
from pipeline.preflight import libtpu_process, schedule
from pipeline.preflight.compiled import Buffer, Compiled, Kernel

CACHE = pathlib.Path(
    os.environ.get("PREFLIGHT_CACHE", pathlib.Path(__file__).resolve().parents[2] / "build" / "preflight")
)
RESULT_VERSION = 5  # of the cached figures; other versions' results are compiled again
MEGACORE = {"v4", "v5p"}  # a chip's two cores act as one device


def topology_name(piece: Slice) -> str:
    """Returns libtpu's name for the slice's topology: "v3:8x8"."""
    return f"{piece.generation}:{piece.topology}"


def described(piece: Slice) -> dict[str, Any]:
    """Returns the slice as the arguments of ``libtpu_process.described_devices``."""
    return {
        "topology": topology_name(piece),
        "chips_per_host": _chips_per_host(piece),
        "megacore": piece.generation in MEGACORE,
    }


def require_compiler() -> str:
    """Returns the version of libtpu; UserError if it or jax is not installed."""
    libtpu = installed("libtpu")
    if libtpu is None or installed("jax") is None:
        how = pip_install("-r requirements-preflight.txt")
        if installed("tensorflow-tpu"):  # it aborts with the preflight's libtpu
            how = "in an environment of its own, pip install -r requirements.txt -r requirements-preflight.txt"
        raise UserError(f"the preflight needs jax and libtpu: {how}")
    return libtpu


def compile_for(
    hlo: bytes, piece: Slice, replicas: int, *, keep_text: pathlib.Path | None = None, with_schedule: bool = False
) -> Compiled:
    """Compiles a serialized HLO module for the slice, or returns the same program's cached figures.

    The slice's topology determines the layout of the all-reduce; ``replicas`` run, one per core. With ``keep_text``,
    compiles even if cached, and writes the compiled program's text to this file. ``with_schedule`` adds its kernels.

    Raises:
        UserError: libtpu rejects the topology, or is not installed.
        WorkFailedError: The compiler failed.
    """
    version = require_compiler()
    key = hashlib.sha256(hlo)
    settings = os.environ.get("LIBTPU_INIT_ARGS", "")
    key.update(f"|{topology_name(piece)}|{piece.hosts}|{replicas}|{version}|{RESULT_VERSION}{settings}".encode())
    scheduled, plain = (CACHE / f"{key.hexdigest()[:32]}{suffix}.json" for suffix in ("-kernels", ""))
    for known in [scheduled] if with_schedule else [plain, scheduled]:
        if known.is_file() and keep_text is None:
            return from_json(json.loads(known.read_text(encoding="utf-8")))
    compile_program: Callable[..., Compiled] = (schedule if with_schedule else libtpu_process).compile_program
    result = own_process.call(
        "the TPU compiler", compile_program, hlo, **described(piece), replicas=replicas, keep_text=keep_text
    )
    cached = scheduled if with_schedule else plain
    cached.parent.mkdir(parents=True, exist_ok=True)
    partial = cached.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(dataclasses.asdict(result)))
    partial.replace(cached)
    return result


def from_json(values: dict[str, Any]) -> Compiled:
    """Returns figures from their JSON values."""
    values["largest"] = tuple(Buffer(**buffer) for buffer in values["largest"])
    values["kernels"] = tuple(Kernel(**kernel) for kernel in values.get("kernels", ()))
    values["costliest"] = tuple(tuple(row) for row in values["costliest"])
    return Compiled(**values)


def _chips_per_host(piece: Slice) -> tuple[int, ...]:
    """Returns chips along each edge of one host; libtpu needs this for hosts of eight chips."""
    if piece.chips // piece.hosts == 8:
        return 2, 4, 1
    return *(min(2, int(edge)) for edge in piece.topology.split("x")[:2]), 1
