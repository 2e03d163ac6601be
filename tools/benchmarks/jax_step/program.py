"""Compiles the JAX step for a slice and measures it, in a process that loads JAX and libtpu."""

import dataclasses
import os
import pathlib
import tempfile
import time

from models.config import GPT2Config
from pipeline.devices.slices import Slice
from pipeline.errors import WorkFailedError
from pipeline.preflight import bundles, hlo, libtpu_process, schedule, tpu_compiler
from pipeline.preflight.compiled import Compiled, Kernel
from tools.benchmarks.jax_step import splash_bundles

SEQUENCES = 4  # a core
BLOCK = 512  # queries and keys per square of splash attention; on v5e and v6e fewer bundles than 256 and 1,024
MODULE = "jit_train_step"  # JAX's name of the program


def compile_step(piece: Slice, attention: str, config: GPT2Config) -> tuple[Compiled, tuple[Kernel, ...]]:
    """Lowers, compiles and measures the step; call it in a separate process, which loads JAX and libtpu.

    Returns:
        What pipeline.preflight measures for our step, and its kernels without splash attention's masked squares.

    Raises:
        WorkFailedError: the compiler failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        settings = [os.environ.get("LIBTPU_INIT_ARGS", ""), bundles.FLAGS.format(folder=folder)]
        os.environ["LIBTPU_INIT_ARGS"] = " ".join(settings).strip()
        devices = libtpu_process.described_devices(**tpu_compiler.described(piece), replicas=piece.cores)
        from tools.benchmarks.jax_step import gpt2

        chosen: gpt2.Attention = gpt2.plain
        if attention == "splash":
            chosen = gpt2.splash_attention(config.heads, config.context, BLOCK)
        start = time.monotonic()
        lowered = gpt2.lowered_step(config, chosen, SEQUENCES, list(devices[: piece.cores]))
        try:
            executable = lowered.compile().runtime_executable()
        except Exception as error:  # jax raises whatever libtpu's status maps to
            if misfit := libtpu_process.out_of_memory(str(error)):
                return misfit, ()
            raise WorkFailedError(f"the TPU compiler failed: {' '.join(str(error).split())[:1000]}") from None
        seconds = time.monotonic() - start
        text = libtpu_process.program_text(executable, MODULE)
        kernels = schedule.kernels(hlo.parse(text), pathlib.Path(folder))
        grid = splash_bundles.Grid(context=config.context, block_q=BLOCK, block_kv=BLOCK)
        dumped, heads = bundles.dumped(pathlib.Path(folder)), SEQUENCES * config.heads
        unmasked = tuple(splash_bundles.counted(kernel, dumped, grid, heads, config.head_width) for kernel in kernels)
    measured = libtpu_process.measure(executable, text)
    return dataclasses.replace(measured, kernels=kernels, compile_seconds=seconds), unmasked
