"""Writes where a step's time goes on each TPU generation, by the compiler's schedule; needs no TPU.

    python -m tools.step_on_tpu --slices=v5e-8,v6e-8   # some minutes a slice
    python -m tools.step_on_tpu --slices=              # only the page

The figures are stored beside the page, as JSON. Slices that are not chosen keep their figures; so does plain attention
(--gin_param="train.attention='plain'") when the fused kernels are measured, and vice versa. If step_in_jax.json of
tools.benchmarks.jax_step is there too and has the same model, the page compares both steps. Needs
requirements-preflight.txt and, for the picture, requirements-plots.txt.
"""

import dataclasses
import pathlib
import sys
from typing import Any

from absl import flags

from models.config import GPT2Config
from pipeline import cli
from pipeline.config import gin_reader
from pipeline.config.train_config import TrainConfig
from pipeline.devices import slices
from pipeline.errors import UserError
from pipeline.gin_files import ON_COMMAND_LINE
from pipeline.optimizers.config import OptimizerConfig
from pipeline.preflight import bundles, compile_step, schedule_figures, tpu_compiler
from pipeline.preflight.compiled import GIB
from pipeline.preflight.schedule import PARTS
from pipeline.report.charts import COLOURS
from tools import figure_store, plots
from tools.benchmarks.jax_step import page as against_jax

FLAGS = flags.FLAGS
SLICES = ("v3-8", "v4-8", "v5e-16", "v5p-8", "v6e-8")
PATHS = ("plain", "fused")  # of attention
MICROBATCH = 4
HEAD = """# The step on each TPU

Written by `python -m tools.step_on_tpu`: the training step of {model},
{microbatch} sequences of {context} tokens per core, compiled by libtpu {libtpu} for each slice, without a TPU.
`python -m tools.preflight --schedule` prints the same for any run and slice.

*Schedule*: the compiler turns each fusion, and each Mosaic kernel, into bundles of instructions for all units of a
core; one bundle issues in about one cycle. Its dump lists them once; here they count as often as they run: for each
block of a fusion, each point of a kernel's grid, each trip of a loop. A kernel with fewer bundles than its FLOPs take
at the peak, as some products on v5e have, counts as the latter. *Cycles*: what the compiler itself expected of each
fusion before it wrote the bundles; for the attention kernels, their FLOPs at the peak, of which heads 64 wide reach a
half, and on v6e a quarter. *Roofline*: arithmetic or memory alone at their peak, whichever takes longer. *Attention*:
plain TensorFlow ops, or the fused kernels, the default on v4 and later.

What the schedule leaves out, and how it is bounded:

- waits for memory. A bundle that waits for data takes longer than a cycle. *Waits* adds up how much longer each
  kernel's traffic takes, at full bandwidth, than its bundles, including background copies. A step's kernels take at
  least the schedule, or the roofline if that is longer, and about schedule plus waits if no copy overlaps another
  kernel's work.
- the network. For a collective, only the bundles that issue it count, not the wait for other cores.
- loops of unknown length (copies, and updates row by row) count once; code under a condition counts at every step, as
  in the attention kernels for contexts above 1,024.

*Agreement*: bundles over the compiler's cycles, for kernels whose cycles are at most 4/3 of what their FLOPs take at
the peak (products of matrices alone), with the range over single kernels in brackets. For elementwise work, the
compiler expects up to four times as many cycles as it then emits, and for each fusion that reads HBM a latency of about
2,000 cycles.

"""
TABLE = (
    "| slice | attention | schedule ms | waits ms | cycles ms | roofline ms | traffic GB | peak GiB | agreement |\n"
    "|---|---|---|---|---|---|---|---|---|\n"
)


def main() -> int:
    """Measures the chosen slices, and writes the page and its picture."""
    page = plots.page_of("output")
    store = page.with_suffix(".json")
    names = [slices.find(name).name for name in FLAGS.slices if name]
    stored = figure_store.load(store)
    if names:
        figure_store.require_model(stored, store, model_name(*chosen()))
    in_jax = page.with_name("step_in_jax.json")
    jax = figure_store.load(in_jax) if in_jax.is_file() else {}
    for name in names:
        path, figures = measure(name)
        stored.setdefault(name, {})[path] = figures
        figure_store.save(store, stored)
        print(f"{name}, {path} attention: {1e3 * sum(figures['seconds'].values()):.1f} ms")
    if not stored:
        raise UserError(f"--slices is empty, and {store} holds nothing yet; expected some of {', '.join(SLICES)}")
    written = text(stored, page.with_suffix(".svg").name)
    if against_jax.of_one_model(jax, stored):
        written += against_jax.section(jax, stored)
    else:
        print(f"note: {in_jax} is of another model, so the page does not compare with it", file=sys.stderr)
    draw(stored, page.with_suffix(".svg"))
    page.write_text(written, encoding="utf-8")
    return 0


def chosen() -> tuple[TrainConfig, GPT2Config, OptimizerConfig]:
    """Returns the flags' run, except its batch."""
    configuration = gin_reader.load(FLAGS.gin_file or ["gpt2.gin"], FLAGS.gin_param)
    settings = configuration.get(TrainConfig)
    for parameter in ("microbatch", "global_batch"):
        if configuration.origin("train", parameter).startswith(ON_COMMAND_LINE):
            raise UserError(f"train.{parameter} has no effect here: each core takes {MICROBATCH} sequences at once")
    model = compile_step.with_vocabulary(
        gin_reader.chosen(configuration, gin_reader.MODELS, settings.model, "train.model")
    )
    optimizer = gin_reader.chosen(configuration, gin_reader.OPTIMIZERS, settings.optimizer, "train.optimizer")
    gin_reader.reject_unused_overrides(configuration, TrainConfig, type(model), type(optimizer))
    return settings, model, optimizer


def model_name(settings: TrainConfig, model: GPT2Config, _: OptimizerConfig) -> str:
    """Returns the page's name for the run."""
    return f"{settings.model} ({model.parameters():,} parameters, {settings.optimizer})"


def measure(name: str) -> tuple[str, dict[str, Any]]:
    """Compiles the run's step for a slice; returns attention's path and the page's figures."""
    piece, (settings, model, optimizer) = slices.find(name), chosen()
    settings = dataclasses.replace(settings, microbatch=MICROBATCH, global_batch=MICROBATCH * piece.cores)
    found = compile_step.check(settings, model, optimizer, piece, with_schedule=True)
    if not found.fits:
        raise UserError(f"--slices={name}: the step does not fit it")
    schedule = schedule_figures.figures(found.compiled.kernels, piece.specs)
    return found.attention, {
        "model": model_name(settings, model, optimizer),
        "context": model.context,
        "libtpu": tpu_compiler.require_compiler(),
        "seconds": schedule.seconds,
        "waits": schedule.waits,
        "units": schedule.units,
        "agreement": [schedule.compared, *schedule.compared_range] if schedule.compared else [],
        "cycles": found.cycles_seconds,
        "roofline": max(found.compute_seconds, found.traffic_seconds),
        "traffic": found.hbm_traffic_bytes,
        "peak": found.peak_bytes_per_core,
    }


def rows(measured: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Returns (slice, attention's path, figures), the table's slices first, each with plain attention first."""
    names = sorted(measured, key=lambda name: ((*SLICES, name).index(name), name))
    return [(name, path, measured[name][path]) for name in names for path in PATHS if path in measured[name]]


def text(measured: dict[str, Any], picture: str) -> str:
    """Returns the page; UserError if the figures are not from one run."""
    all_rows = rows(measured)
    first = all_rows[0][2]
    for name, path, row in all_rows:
        if any(row[key] != first[key] for key in ("model", "context", "libtpu")):
            raise UserError(f"{name}, {path} is of another model or compiler than {all_rows[0][0]}; measure both alike")
    shown = {"model": first["model"], "context": f"{first['context']:,}", "libtpu": first["libtpu"]}
    lines = [HEAD.format(microbatch=MICROBATCH, **shown) + TABLE]
    for name, path, row in all_rows:
        times = (sum(row["seconds"].values()), sum(row["waits"].values()), row["cycles"], row["roofline"])
        sizes = f"{row['traffic'] / 1e9:.1f} | {row['peak'] / GIB:.2f}"
        agreement = "{:.2f} ({:.2f} to {:.2f})".format(*row["agreement"]) if row["agreement"] else "-"
        milliseconds = " | ".join(f"{1e3 * value:.1f}" for value in times)
        lines.append(f"| {name} | {path} | {milliseconds} | {sizes} | {agreement} |\n")
    lines.append(
        f"\n![Milliseconds of the schedule by part]({picture})\n\nMilliseconds by part; in brackets, the share of "
    )
    lines.append("its\nslots that the busiest unit uses: M matrix unit, V vector ALU, X cross-lane, E transcendental, ")
    lines.append("L loads,\nS stores, A scalar ALU.\n\n")
    lines.append(f"| slice | path | {' | '.join(PARTS)} |\n|{'---|' * (2 + len(PARTS))}\n")
    lines += [
        f"| {name} | {path} | {' | '.join(cell(row, part) for part in PARTS)} |\n" for name, path, row in all_rows
    ]
    return "".join(lines)


def cell(row: dict[str, Any], part: str) -> str:
    """Returns a part's milliseconds and its busiest unit in short, such as "9.4 (M 88 %)"."""
    letters = dict(zip(bundles.UNITS, "MXVELSA", strict=True))
    unit, share = row["units"].get(part, ("", 0.0))
    busiest = f" ({letters[unit]} {100 * share:.0f} %)" if unit else ""
    return f"{1e3 * row['seconds'][part]:.2f}{busiest}"


def draw(measured: dict[str, Any], file: pathlib.Path) -> None:
    """Draws a stacked bar for each slice and state."""
    pyplot = plots.svg_pyplot("step")
    all_rows = rows(measured)
    figure, axes = pyplot.subplots(figsize=(8, 1.6 + 0.4 * len(all_rows)), layout="constrained")
    left = [0.0] * len(all_rows)
    for part, colour in zip(PARTS, COLOURS, strict=False):
        widths = [1e3 * row["seconds"][part] for *_, row in all_rows]
        axes.barh(range(len(all_rows)), widths, left=left, color=colour, label=part)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.set_yticks(range(len(all_rows)), [f"{name}, {path}" for name, path, _ in all_rows])
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds of bundles a step")
    figure.legend(ncols=5, fontsize="small", loc="outside upper center", frameon=False)
    plots.save_svg(figure, file)
    pyplot.close(figure)


def define_flags() -> None:
    """Defines the flags."""
    cli.define_gin_flags()
    cli.define_path("output", "docs/step_on_tpu.md", "The page to write.")
    flags.DEFINE_list("slices", list(SLICES), "Slices to compile for; none only rewrites the page.")


if __name__ == "__main__":
    cli.run(main, define_flags)
