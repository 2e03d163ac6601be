"""Runs lowered programs on the CPU, a virtual device for each replica; for a process of its own, without TensorFlow.

The way to XLA is the preflight's, libtpu_process.py, with JAX's CPU client in place of libtpu.
"""

import dataclasses
import os
import re

import numpy as np

ALIASES = "mhlo.input_output_alias"
ALIAS = re.compile(r"parameter_number = (\d+) : i64\}, output_index = array<i64: (\d+)>")


@dataclasses.dataclass(frozen=True)
class Program:
    """A serialised HLO module whose first parameters are a batch, and whose others are its state.

    Attributes:
        hlo: the module, as the preflight hands it to the TPU's compiler.
        replicas: how many of them run.
        state: the first value of each parameter after the batch; every replica begins with it.
        batches: for each step, the batch's parameters, of all replicas: the first axis is divided among them.
    """

    hlo: bytes
    replicas: int
    state: list[np.ndarray]
    batches: list[list[np.ndarray]]


def run(programs: list[Program]) -> list[tuple[list, list]]:
    """Returns of each program, for each step, the outputs that are no state; and the last value of each of the state.

    All have a first axis of replicas. An output that may take a parameter's memory is that parameter's next value.
    """
    devices = max(program.replicas for program in programs)
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    os.environ.update(JAX_PLATFORMS="cpu", XLA_FLAGS=flags)
    import jax

    jax.config.update("jax_enable_x64", True)  # the examples' index is an int64
    return [_run(program) for program in programs]


def _run(program: Program) -> tuple[list, list]:
    import jax

    from pipeline.preflight import libtpu_process

    devices = jax.devices()[: program.replicas]
    module = libtpu_process._stablehlo(program.hlo)
    attributes = module.operation.attributes
    aliases = ALIAS.findall(str(attributes[ALIASES])) if ALIASES in attributes else []  # an evaluation has none
    next_of = {int(output): int(parameter) for parameter, output in aliases}
    compiled = libtpu_process._compile(module, devices, program.replicas)

    def on_each(parts: list) -> list:
        return [jax.device_put(part, device) for part, device in zip(parts, devices, strict=True)]

    state, history = [on_each([value] * program.replicas) for value in program.state], []
    for batch in program.batches:
        first = len(batch)
        arguments = [*(on_each(np.split(part, program.replicas)) for part in batch), *state]
        results = compiled.execute_sharded([_one_array(parts, devices) for parts in arguments])
        outputs = results.disassemble_into_single_device_arrays()
        for output, parameter in next_of.items():
            state[parameter - first] = outputs[output]
        history.append([_on_host(parts) for number, parts in enumerate(outputs) if number not in next_of])
    return history, [_on_host(parts) for parts in state]


def _one_array(parts: list, devices: list):
    """Returns the parts as the array that the runtime takes, which lays them end to end."""
    import jax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    mesh, shape = Mesh(np.array(devices), ("replica",)), parts[0].shape
    if not shape:
        return jax.make_array_from_single_device_arrays((), NamedSharding(mesh, PartitionSpec()), parts)
    whole = (len(parts) * shape[0], *shape[1:])
    return jax.make_array_from_single_device_arrays(whole, NamedSharding(mesh, PartitionSpec("replica")), parts)


def _on_host(parts: list) -> np.ndarray:
    """Returns each replica's value, on a first axis of replicas."""
    return np.stack([np.asarray(part) for part in parts])
