"""Compiles a lowered step for a TPU slice on a machine without a TPU, in a separate process, and caches the result.

Imports neither TensorFlow nor JAX: the TPU compiler (libtpu) runs in ``libtpu_process``, so that neither it nor JAX
shares a process with TensorFlow. The cache's key is the hash of the program, the slice's topology and the compiler's
version.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from typing import Any

from pipeline.devices.slices import Slice
from pipeline.devices.tpu_target import installed
from pipeline.errors import UserError, WorkFailedError

CACHE = pathlib.Path(
    os.environ.get("PREFLIGHT_CACHE", pathlib.Path(__file__).resolve().parents[2] / "build" / "preflight")
)
RESULT_VERSION = 5  # of the cached figures; results of other versions are compiled again
MEGACORE = {"v4", "v5p"}  # a chip's two cores act as one device
GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Buffer:
    """One large array in HBM: its bytes, its shape as the compiler writes it, and the op that creates it."""

    bytes: int
    shape: str
    op: str


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """The TPU compiler's figures of one program on one core.

    Args:
        fits: Whether it compiled within the memory that the compiler allows.
        peak_bytes: Peak HBM, arguments included; the HBM that it would need if it does not fit.
        hbm_limit_bytes: HBM that the compiler allows; 0 if it did not say.
        argument_bytes: Weights, slots and the batch.
        program_bytes: Instructions.
        flops: Matrix-multiply FLOPs, loops counted as often as they run.
        attention_flops: Those of batched multiplications, which are attention's; part of ``flops``.
        traffic_bytes: Between HBM and the core, loops counted likewise.
        cycles: Sum of the compiler's estimates of all instructions, loops counted likewise.
        compiler_seconds: The compiler's ``optimal_seconds``, corrected for loops; None if it is not plausible.
        compiler_flops, compiler_traffic_bytes, compiler_optimal_seconds: As the compiler prints them.
        once_traffic_bytes: Our own count with loops counted once, to be compared with the compiler's.
        unknown_loops: Loops of unknown trip count, which are counted once.
        largest: The largest buffers, greatest first.
        costliest: Bytes moved by op, greatest first.
        compile_seconds: How long the compiler took.
    """

    fits: bool
    peak_bytes: int
    hbm_limit_bytes: int = 0
    argument_bytes: int = 0
    program_bytes: int = 0
    flops: float = 0.0
    attention_flops: float = 0.0
    traffic_bytes: float = 0.0
    cycles: float = 0.0
    compiler_seconds: float | None = None
    compiler_flops: float = 0.0
    compiler_traffic_bytes: float = 0.0
    compiler_optimal_seconds: float = 0.0
    once_traffic_bytes: float = 0.0
    unknown_loops: int = 0
    largest: tuple[Buffer, ...] = ()
    costliest: tuple[tuple[float, str, str], ...] = ()
    compile_seconds: float = 0.0


def topology_name(piece: Slice) -> str:
    """Returns the slice's topology as libtpu names it, such as "v3:8x8"."""
    return f"{piece.generation}:{piece.topology}"


def require_compiler() -> str:
    """Returns the version of libtpu; UserError if it or jax is not installed."""
    libtpu = installed("libtpu")
    if libtpu is None or installed("jax") is None:
        how = "pip install -r requirements-preflight.txt"
        if installed("tensorflow-tpu"):  # which aborts beside the preflight's libtpu
            how = "in an environment of its own, pip install -r requirements.txt -r requirements-preflight.txt"
        raise UserError(f"the preflight needs jax and libtpu: {how}")
    return libtpu


def compile_for(hlo: bytes, piece: Slice, replicas: int, *, keep_text: pathlib.Path | None = None) -> Compiled:
    """Compiles a serialised HLO module for the slice, or returns the cached figures of the same program.

    Args:
        hlo: The module, as lowered by TensorFlow.
        piece: The slice; its topology determines the layout of the all-reduce.
        replicas: Running copies, one per core.
        keep_text: Also write the compiled program's text to this file; compiles again even if cached.

    Raises:
        UserError: libtpu refuses the topology, or is not installed.
        WorkFailedError: The compiler failed.
    """
    version = require_compiler()
    key = hashlib.sha256(hlo)
    key.update(f"|{topology_name(piece)}|{piece.hosts}|{replicas}|{version}|{RESULT_VERSION}".encode())
    cached = CACHE / f"{key.hexdigest()[:32]}.json"
    if cached.is_file() and keep_text is None:
        return from_json(json.loads(cached.read_text(encoding="utf-8")))
    result = _run(hlo, piece, replicas, keep_text)
    cached.parent.mkdir(parents=True, exist_ok=True)
    partial = cached.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(dataclasses.asdict(result)))
    partial.replace(cached)
    return result


def from_json(values: dict[str, Any]) -> Compiled:
    """Returns figures from their JSON values."""
    values["largest"] = tuple(Buffer(**buffer) for buffer in values["largest"])
    values["costliest"] = tuple(tuple(row) for row in values["costliest"])
    return Compiled(**values)


def _run(hlo: bytes, piece: Slice, replicas: int, keep_text: pathlib.Path | None) -> Compiled:
    with tempfile.TemporaryDirectory() as folder:
        module, answer = pathlib.Path(folder, "step.hlo"), pathlib.Path(folder, "answer.json")
        module.write_bytes(hlo)
        job = {
            "module": str(module),
            "answer": str(answer),
            "topology": topology_name(piece),
            "generation": piece.generation,
            "megacore": piece.generation in MEGACORE,
            "chips_per_host": _chips_per_host(piece),
            "replicas": replicas,
            "keep_text": str(keep_text) if keep_text else None,
        }
        command = [sys.executable, "-m", "pipeline.preflight.libtpu_process", json.dumps(job)]
        root = pathlib.Path(__file__).resolve().parents[2]
        done = subprocess.run(command, cwd=root, env=_environment(piece), capture_output=True, text=True, check=False)
        if not answer.is_file():
            raise WorkFailedError(f"the TPU compiler died ({done.returncode}): {' '.join(done.stderr.split())[-2000:]}")
        result = json.loads(answer.read_text(encoding="utf-8"))
    if "refused" in result:
        raise UserError(f"libtpu refuses the topology {topology_name(piece)}: {result['refused']}")
    if "failed" in result:
        raise WorkFailedError(f"the TPU compiler failed: {result['failed']}")
    return from_json(result)


def _chips_per_host(piece: Slice) -> list[int]:
    """Returns chips along each edge of one host, which libtpu must be told for hosts of eight chips."""
    chips = piece.chips // piece.hosts
    return [2, 4, 1] if chips == 8 else [min(2, int(edge)) for edge in piece.topology.split("x")[:2]] + [1]


def _environment(piece: Slice) -> dict[str, str]:
    """Returns an environment in which libtpu does not ask the metadata server, which would take minutes.

    It also allows several preflights at once: libtpu's lock protects chips, and there are none here.
    """
    return {
        **os.environ,
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v3-8" if piece.generation in ("v2", "v3") else "v4-8",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_WORKER_ID": "0",
        "TPU_STDERR_LOG_LEVEL": "3",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
