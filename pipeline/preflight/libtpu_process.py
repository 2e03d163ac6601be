"""Compiles a lowered program with the real TPU compiler, in a separate process that tpu_compiler.py starts.

JAX only gives access to libtpu: TensorFlow lowers the program.
"""

import dataclasses
import os
import pathlib
import re
import time
from collections.abc import Sequence
from typing import Any

from pipeline.errors import UserError, WorkFailedError, pip_install
from pipeline.preflight import hlo, hlo_costs, serialised
from pipeline.preflight.compiled import Buffer, Compiled

# With these, libtpu does not ask the metadata server, which would take minutes, and several preflights can run at once:
# its lock protects chips, and there are none here.
ENVIRONMENT = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}
# "the total memory required for HLO temporaries (18.25G) exceeds available HBM (15.48G)", or, from another pass,
# "Ran out of memory in memory space hbm. Used 18.25G of 15.48G hbm."
SIZE = r"\(?([\d.]+)([KMG]?)\)?"
USED = re.compile(rf"(?:required for [\w ]*|memory space hbm\. Used ){SIZE} (?:exceeds available HBM|of) {SIZE}")
LISTED = 12


def compile_program(
    module: bytes,
    *,
    topology: str,
    chips_per_host: tuple[int, ...],
    megacore: bool,
    replicas: int,
    keep_text: pathlib.Path | None,
) -> Compiled:
    """Compiles and measures a serialized HLO module from TensorFlow; writes its text to ``keep_text``.

    libtpu names a topology "v3:8x8". ``chips_per_host`` are counted along each edge of a host; with ``megacore`` a
    chip's two cores act as one device; each device runs one of the ``replicas``.

    Raises:
        UserError: libtpu rejects the topology.
        WorkFailedError: The compiler failed.
    """
    devices = described_devices(topology, chips_per_host=chips_per_host, megacore=megacore, replicas=replicas)
    start = time.monotonic()
    try:
        compiled = _compile(_stablehlo(module), devices, replicas)
    except Exception as error:
        if misfit := out_of_memory(str(error)):
            return misfit
        raise WorkFailedError(f"the TPU compiler failed: {' '.join(str(error).split())[:1000]}") from None
    text = program_text(compiled, serialised.name_of(module))
    if keep_text:
        keep_text.write_text(text, encoding="utf-8")
    return dataclasses.replace(measure(compiled, text), compile_seconds=time.monotonic() - start)


def described_devices(
    topology: str, *, chips_per_host: tuple[int, ...], megacore: bool, replicas: int
) -> Sequence[Any]:
    """Returns JAX's devices for a topology, which need not exist; arguments as for ``compile_program``.

    Raises:
        UserError: libtpu rejects the topology.
    """
    os.environ.update(ENVIRONMENT, TPU_ACCELERATOR_TYPE="v3-8" if topology.startswith(("v2:", "v3:")) else "v4-8")
    os.environ.pop("XLA_FLAGS", None)  # these are for CPU programs; LIBTPU_INIT_ARGS is libtpu's
    from jax.experimental import topologies

    options: dict[str, Any] = {"chips_per_host_bounds": chips_per_host}
    if megacore:
        options["chip_config_name"] = "megacore"
    try:
        devices = topologies.get_topology_desc(platform="tpu", topology_name=topology, **options).devices
    except Exception as error:  # jax raises whatever libtpu's status maps to
        raise UserError(f"libtpu refuses the topology {topology}: {' '.join(str(error).split())[:300]}") from None
    if len(devices) < replicas:
        raise UserError(f"libtpu refuses the topology {topology}: it has {len(devices)} devices, not {replicas}")
    return devices


def _stablehlo(serialised: bytes) -> Any:
    """Converts TensorFlow's HLO to the dialect that JAX's compile takes."""
    from jax._src.interpreters import mlir as jax_mlir
    from jax._src.lib import _jax
    from jax._src.lib.mlir import ir

    text = _jax.mlir.hlo_to_stablehlo(serialised)
    context = jax_mlir.make_ir_context()
    context.allow_unregistered_dialects = True
    with context:
        module = ir.Module.parse(text)
        _drop_copies(module.body)
    return module


def _drop_copies(block: Any) -> None:
    """Removes mhlo.copy, which has no StableHLO form; the TPU compiler inserts copies itself."""
    for operation in list(block.operations):
        for region in operation.regions:
            for inner in region.blocks:
                _drop_copies(inner)
        if operation.operation.name == "mhlo.copy":
            operation.operation.results[0].replace_all_uses_with(operation.operation.operands[0])
            operation.operation.erase()


def _compile(module: Any, devices: Any, replicas: int) -> Any:
    import numpy as np
    from jax._src import compiler
    from jax._src.lib import _jax

    assignment = np.arange(replicas).reshape(replicas, 1)
    options = compiler.get_compile_options(num_replicas=replicas, num_partitions=1, device_assignment=assignment)
    chosen = _jax.DeviceList(tuple(devices[:replicas]))
    return compiler.backend_compile_and_load(devices[0].client, module, chosen, options, [])


def program_text(compiled: Any, name: str) -> str:
    """Returns a compiled module's text, from the serialized program if JAX's reader rejects it (v6e).

    Raises:
        WorkFailedError: Neither way works.
    """
    from jax._src.lib import xla_client

    try:
        return compiled.hlo_modules()[0].to_string()
    except Exception as error:
        try:
            module = serialised.readable_module(compiled.serialize(), name)
            return xla_client.hlo.HloModule.from_serialized_hlo_module_proto(module).to_string()
        except Exception:
            raise WorkFailedError(
                f"jax cannot read what libtpu compiled ({' '.join(str(error).split())[:200]}); "
                f"expected the pair of requirements-preflight.txt: {pip_install('-r requirements-preflight.txt')}"
            ) from None


def measure(compiled: Any, text: str) -> Compiled:
    """Returns the figures of a program that fits."""
    memory = compiled.get_compiled_memory_stats()
    cost = compiled.cost_analysis()
    cost = cost[0] if isinstance(cost, list) else cost
    parsed = hlo.parse(text)
    once, all_trips = hlo_costs.total(parsed, unroll=False), hlo_costs.total(parsed)
    if hlo_costs.prefetches(parsed):  # the compiler counts the whole array for each prefetched slice
        traffic = all_trips.hbm_bytes
    else:  # the compiler counts loops once; scale its figure by our own count of their further trips
        traffic = cost["bytes accessed"] * all_trips.hbm_bytes / max(once.hbm_bytes, 1.0)
    optimal = cost.get("optimal_seconds", 0.0)
    return Compiled(
        fits=True,
        peak_bytes=memory.peak_memory_in_bytes,
        argument_bytes=memory.argument_size_in_bytes,
        program_bytes=memory.generated_code_size_in_bytes,
        flops=all_trips.matmul_flops,
        attention_flops=all_trips.batched_flops,
        kernel_flops=all_trips.kernel_flops,
        traffic_bytes=traffic,
        cycles=all_trips.cycles,
        compiler_seconds=optimal * all_trips.cycles / once.cycles if optimal > 0 and once.cycles else None,
        compiler_flops=cost["flops"],
        compiler_traffic_bytes=cost["bytes accessed"],
        compiler_optimal_seconds=optimal,
        once_traffic_bytes=once.hbm_bytes,
        unknown_loops=all_trips.unknown_loops,
        largest=tuple(Buffer(bytes=size, shape=shape, op=op) for size, shape, op in hlo_costs.largest(parsed, LISTED)),
        costliest=tuple(hlo_costs.costliest(parsed, LISTED)),
    )


def out_of_memory(message: str) -> Compiled | None:
    """Returns the figures in the compiler's out-of-memory message, or None if it is another error."""
    match = USED.search(message)
    if not match:
        return None
    used, limit = (int(float(match[i]) * UNITS[match[i + 1]]) for i in (1, 3))
    return Compiled(fits=False, peak_bytes=used, hbm_limit_bytes=limit)
