r"""GPT-2's training step in JAX, compiled for a TPU slice and measured like our step; needs no TPU.

    python -m tools.benchmarks.jax_step --slice=v5e-16 --attention=splash \
        --json=docs/step_in_jax.json

gpt2.py is the step: 124M parameters, 4 sequences of 1,024 tokens per core. Attention is JAX's splash kernel, or plain
(jax.nn.dot_product_attention). The JSON file keeps its figures for other slices and the other attention;
`python -m tools.step_on_tpu --slices=` writes the page from it. Development only: needs requirements-dev.txt.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from models.config import GPT2Config
from pipeline import cli
from pipeline.config.attention_path import KERNEL_GENERATIONS
from pipeline.config.dry_run import GPT2_VOCABULARY
from pipeline.devices import own_process, slices
from pipeline.devices.tpu_specs import Generation
from pipeline.devices.wheels import installed
from pipeline.errors import UserError, WorkFailedError, pip_install
from pipeline.preflight import schedule_figures, tpu_compiler
from pipeline.preflight.compiled import GIB, Kernel
from tools import figure_store
from tools.benchmarks.jax_step import splash_bundles
from tools.benchmarks.jax_step.program import compile_step

FLAGS = flags.FLAGS
ATTENTION = ("splash", "plain")
LISTED = 25


def main() -> int:
    """Compiles the step for one slice, prints its figures and adds them to the file."""
    piece = slices.find(cli.required("slice", "a slice such as v5e-16"))
    store = pathlib.Path(FLAGS.json) if FLAGS.json else None
    check(piece)
    config = GPT2Config(layers=FLAGS.layers, vocabulary_size=GPT2_VOCABULARY)
    stored = figure_store.load(store) if store else {}
    figure_store.require_model(stored, store or pathlib.Path(), model_name(config))
    figures = measure(piece, FLAGS.attention, config)
    print(
        f"{piece.name}, {FLAGS.attention} attention: schedule {1e3 * figures['schedule']:.1f} ms, waits "
        f"{1e3 * figures['waits']:.1f} ms, cycles {1e3 * figures['cycles']:.1f} ms, traffic "
        f"{figures['traffic'] / 1e9:.1f} GB, peak {figures['peak'] / GIB:.2f} GiB; compiled in "
        f"{figures.pop('compile_seconds'):.0f} s"
    )
    if store:
        stored.setdefault(piece.name, {})[FLAGS.attention] = figures
        figure_store.save(store, stored)
    return 0


def model_name(config: GPT2Config) -> str:
    """Returns the model's name in the file of figures."""
    return f"{config.layers} layers, {config.parameters():,} parameters"


def check(piece: slices.Slice) -> None:
    """Raises UserError, before minutes of compiling, if something cannot be measured."""
    if FLAGS.layers < 1:
        raise UserError(f"--layers={FLAGS.layers}: expected 1 or more")
    if FLAGS.attention == "splash" and piece.generation not in KERNEL_GENERATIONS:
        raise UserError(f"--slice={piece.name}: {piece.generation} takes no Mosaic kernels; try --attention=plain")
    cli.check_files("json")
    tpu_compiler.require_compiler()
    if installed("optax") is None:
        raise UserError(f"the JAX step needs optax: {pip_install('-r requirements-dev.txt')}")


def measure(piece: slices.Slice, attention: str, config: GPT2Config) -> dict[str, Any]:
    """Returns the figures for the page.

    Raises:
        WorkFailedError: it does not fit, or could not be compiled.
    """
    compiled, kernels = own_process.call("the TPU compiler", compile_step, piece, attention, config)
    if not compiled.fits:
        raise WorkFailedError(f"the step does not fit {piece.name}: {compiled.peak_bytes / GIB:.2f} GiB")
    print("\n".join(costliest(kernels, piece.specs)))
    found, specs = schedule_figures.figures(kernels, piece.specs), piece.specs
    splash = [kernel for kernel in kernels if splash_bundles.kind_of(kernel.name)]
    flops = sum(kernel.runs * kernel.flops for kernel in splash)
    share = min(1.0, config.head_width / specs.matrix_unit)  # that a head fills, as for our kernels
    return {
        "model": model_name(config),
        "context": config.context,
        "versions": {name: installed(name) for name in ("jax", "libtpu", "optax")},
        "schedule": found.total,
        "kernels": sum(kernel.runs * kernel.bundles for kernel in splash) / (specs.clock_ghz * 1e9),
        "schedule_with_masked": schedule_figures.figures(compiled.kernels, piece.specs).total,
        "waits": sum(found.waits.values()),
        "cycles": compiled.cycles / (specs.clock_ghz * 1e9) + flops / (specs.peak_tflops * 1e12 * share),
        "uncounted_loops": found.uncounted_loops,
        "traffic": compiled.traffic_bytes,
        "peak": compiled.peak_bytes,
        "compile_seconds": compiled.compile_seconds,
    }


def costliest(kernels: Sequence[Kernel], specs: Generation) -> list[str]:
    """Returns lines that name the kernels with the longest schedule: milliseconds, runs, and the JAX operation."""
    cycle = specs.clock_ghz * 1e6  # cycles per millisecond
    rows = [(k.runs * max(k.bundles, k.flops / specs.flops_per_cycle) / cycle, k.runs, k.op or k.name) for k in kernels]
    return [f"{time:8.2f} ms  {runs:4.0f} × {op}" for time, runs, op in sorted(rows, reverse=True)[:LISTED]]


def define_flags() -> None:
    """Defines the flags."""
    flags.DEFINE_string("slice", None, "The slice, such as v5e-16.")
    flags.DEFINE_enum("attention", "splash", ATTENTION, "How attention is computed.")
    flags.DEFINE_integer("layers", 12, "Layers; fewer compile sooner.")
    cli.define_path("json", None, "Add the figures to this file.")


if __name__ == "__main__":
    cli.run(main, define_flags)
