r"""Writes a table of every model's preflight on the usual slices: what fits, at which microbatch, how fast.

    python -m tools.preflight_table --output=docs/preflight.md \
        --readme=README.md --pods=docs/pods.md

The compiler needs one to nine minutes per program, and there are 528. Programs that are already compiled come from the
cache, so an interrupted table resumes where it stopped. --missing keeps the rows that the output has, so that another
machine can continue. --models, --slices, --optimizers and --remat choose rows; the others stay.
"""

import dataclasses
import itertools
import os
import pathlib
import re
from typing import Any

from absl import flags

from models.config import GPT2Config
from models.weight_specs import weight_specs
from pipeline import cli, storage
from pipeline.config import gin_reader
from pipeline.config.train_config import TrainConfig
from pipeline.devices import slices
from pipeline.errors import UserError, nearest
from pipeline.optimizers.config import OptimizerConfig
from pipeline.preflight import compile_step, tpu_compiler
from pipeline.preflight.compiled import GIB
from pipeline.preflight.figures import Figures
from tools import preflight_excerpts
from tools.preflight_excerpts import HOURS_MARKS, OVERVIEW_MARKS, UNKNOWN

FLAGS = flags.FLAGS
MODELS = {
    **dict.fromkeys(("gpt2-small", "gpt2-medium", "gpt2-large", "gpt2-xl"), "gpt2"),
    **dict.fromkeys(("algpt2-base", "algpt2-base E=256", "algpt2-base E=512", "algpt2-base E=none"), "algpt2"),
    **dict.fromkeys(("algpt2-medium", "algpt2-medium E=none", "algpt2-large", "algpt2-xl"), "algpt2"),
}
SLICES = ("v2-8", "v3-8", "v3-128", "v4-8", "v4-32", "v5e-1", "v5e-8", "v5e-16", "v5p-8", "v6e-1", "v6e-8")
OPTIMIZERS = ("adafactor", "adamw")
REMAT = ("none", "full")
AXES = {"models": tuple(MODELS), "slices": SLICES, "optimizers": OPTIMIZERS, "remat": REMAT}  # by flag
MICROBATCHES = (4, 2, 1)  # the first that fits is shown
HEAD = """# What fits where

Made by `python -m tools.preflight_table --output=docs/preflight.md`: each model's training step, bfloat16, context
1,024, without accumulation, compiled by libtpu for the slice, with its all-reduce. *Microbatch*: the largest of 4, 2
and 1 sequences per core that fits. *Peak*: peak HBM per core; "needs" is the peak at one sequence if even that does not
fit, "needs over" means that weights and slots alone exceed the core's memory (these are not compiled). *Bound*: the
step's roofline, with arithmetic and memory fully overlapping. *Estimate*: the compiler's, with every op at its own
roofline, corrected for loops; "-" where it is not between bound and cycles, as on v4, v5e and v6e. *Cycles*: those that
the compiler expects with one instruction after another, at the generation's clock. *Attention*: fused kernels or plain
TensorFlow ops, as `train.attention = 'auto'` chooses. Plain rows of v4 and later predate the kernels; fused is faster
there ([step_on_tpu.md](step_on_tpu.md)). ALGPT2 has E = 128 unless a row says otherwise. Missing rows were not
compiled. Adafactor's rows for gpt2-small and algpt2-base without rematerialization show today's step. The others were
compiled earlier, with an absolute learning rate, when a step of gpt2-small on a v3-128 took 119 ms of cycles, not 110.
If memory is short, the compiler itself rematerializes, so "none" may include some of it, as for gpt2-xl. Gradients take
less than a copy of the weights: where it can, the compiler itself shards the update over the replicas (Xu et al. 2020,
https://arxiv.org/abs/2004.13336), with reduce-scatters in place of all-reduces.

"""
NAMES = (
    *("model", "slice", "optimizer", "remat", "fits", "microbatch", "peak GiB", "traffic GB"),
    *("bound ms", "estimate ms", "cycles ms", "attention"),
)
HEAD += f"| {' | '.join(NAMES)} |\n|{'---|' * len(NAMES)}\n"
COLUMNS = len(NAMES)


def main() -> int:
    """Compiles the chosen rows, and writes the table after each."""
    tpu_compiler.require_compiler()
    for flag, marks in (("readme", OVERVIEW_MARKS), ("pods", HOURS_MARKS)):
        if page := getattr(FLAGS, flag):
            cli.check_files(flag)
            if not os.path.exists(page) or marks.begin not in pathlib.Path(page).read_text(encoding="utf-8"):
                raise UserError(f"--{flag}={page}: it has no line {marks.begin}, after which the excerpt goes")
    chosen = [choice(flag, names) for flag, names in AXES.items()]
    output = pathlib.Path(FLAGS.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    cli.check_files("output")
    rows = read_rows(output)
    for key in itertools.product(*chosen):
        if FLAGS.missing and UNKNOWN not in rows.get(key, UNKNOWN):
            continue
        rows[key] = row(*key)
        print(rows[key], flush=True)
        write_rows(output, rows)
        write_excerpts(rows)
    write_excerpts(rows)
    return 0


def write_excerpts(rows: dict[tuple[str, ...], str]) -> None:
    """Writes the other pages' excerpts of the table."""
    if FLAGS.readme:
        preflight_excerpts.write(pathlib.Path(FLAGS.readme), OVERVIEW_MARKS, preflight_excerpts.overview(rows))
    if FLAGS.pods:
        preflight_excerpts.write(pathlib.Path(FLAGS.pods), HOURS_MARKS, preflight_excerpts.hours(rows))


def choice(flag: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the names that a comma-separated flag chooses; all known ones if it is empty."""
    chosen = tuple(part for part in getattr(FLAGS, flag) if part)
    for name in chosen:
        if flag == "slices" and not slices.is_known(name):
            raise UserError(f"--slices={name}: expected slices such as {', '.join(known)}{slices.hint(name)}")
        if flag != "slices" and name not in known:
            raise UserError(f"--{flag}={name}: expected some of {', '.join(known)}{nearest(name, known)}")
    return chosen or known


def row(model_name: str, slice_name: str, optimizer_name: str, remat: str) -> str:
    """Compiles one combination at decreasing microbatches until it fits; returns its table row."""
    piece = slices.find(slice_name)
    columns: list[str] = []
    for microbatch in MICROBATCHES:
        settings, model, optimizer = configure(model_name, optimizer_name, remat, piece, microbatch)
        state = state_bytes(model, optimizer, piece.cores)
        if state > piece.specs.usable_hbm_gib * GIB:  # no need to compile
            columns = misfit(f"needs over {state / GIB:.2f}", piece.specs.usable_hbm_gib)
            break
        checked = compile_step.check(settings, model, optimizer, piece)
        columns = cells(checked)
        if checked.fits:
            break
    return "| " + " | ".join([model_name, slice_name, optimizer_name, remat, *columns]) + " |"


def state_bytes(model: GPT2Config, optimizer: OptimizerConfig, replicas: int) -> int:
    """Returns the bytes of weights and slots on each core."""
    shapes = {name: variable.shape for name, variable in weight_specs(model).items()}
    return 4 * model.parameters() + optimizer.slot_bytes(shapes, replicas)


def misfit(needs: str, has_gib: float) -> list[str]:
    """Returns the columns of a combination that fits at no microbatch."""
    return ["no", "-", f"{needs} of {has_gib:.2f}", *["-"] * 5]


def cells(found: Figures) -> list[str]:
    """Returns the columns after the combination's name."""
    peak = f"{found.peak_bytes_per_core / GIB:.2f}"
    if not found.fits:
        return misfit(f"needs {peak}", found.hbm_bytes_per_core / GIB)
    bound = _milliseconds(max(found.compute_seconds, found.traffic_seconds))
    traffic = f"{found.hbm_traffic_bytes / 1e9:.1f}"
    estimate = _milliseconds(found.estimate_seconds or 0) if found.estimate_source == "compiler" else "-"
    cycles = _milliseconds(found.cycles_seconds)
    return ["yes", str(found.microbatch), peak, traffic, bound, estimate, cycles, found.attention]


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.{0 if seconds >= 0.02 else 1}f}"


def configure(
    model_name: str, optimizer_name: str, remat: str, piece: slices.Slice, microbatch: int
) -> tuple[TrainConfig, Any, Any]:
    """Returns the run of gpt2.gin or algpt2.gin with another size, optimizer, rematerialization and batch."""
    kind, (size, _, embedding) = MODELS[model_name], model_name.partition(" E=")
    params = [f"ALGPT2.embedding={embedding.title()}"] if embedding else []
    configuration = gin_reader.load([f"{kind}.gin", f"models/{size}.gin"], ["AdamW.learning_rate=1e-4", *params])
    settings = dataclasses.replace(
        configuration.get(TrainConfig),
        optimizer=optimizer_name,
        microbatch=microbatch,
        global_batch=microbatch * piece.cores,
    )
    model = dataclasses.replace(
        compile_step.with_vocabulary(gin_reader.chosen(configuration, gin_reader.MODELS, kind, "train.model")),
        remat=remat,
    )
    return settings, model, gin_reader.chosen(configuration, gin_reader.OPTIMIZERS, optimizer_name, "train.optimizer")


def read_rows(output: pathlib.Path) -> dict[tuple[str, ...], str]:
    """Returns the table's lines by (model, slice, optimizer, remat)."""
    lines = output.read_text(encoding="utf-8").splitlines() if output.is_file() else []
    parts = [(line, re.findall(r"[^|\s][^|]*[^|\s]", line)) for line in lines]
    return {tuple(cells[:4]): line for line, cells in parts if line.count("|") == COLUMNS + 1 and cells[0] in MODELS}


def write_rows(output: pathlib.Path, rows: dict[tuple[str, ...], str]) -> None:
    """Writes the whole table in its own order."""

    def place(key: tuple[str, ...]) -> list:
        return [((*names, name).index(name), name) for names, name in zip(AXES.values(), key, strict=True)]

    output.parent.mkdir(parents=True, exist_ok=True)
    text = HEAD + "".join(f"{rows[key]}\n" for key in sorted(rows, key=place))
    storage.replace_bytes(text.encode(), str(output))  # atomic: a row takes minutes


def define_flags() -> None:
    """Defines the flags."""
    cli.define_path("output", "docs/preflight.md", "The Markdown file that holds the table.")
    cli.define_path("readme", None, "A page that gets an excerpt between its two marks, such as README.md.")
    cli.define_path("pods", None, "A page that gets hours and chip-hours between its two marks, such as docs/pods.md.")
    flags.DEFINE_list("models", [], "Models, comma-separated; none means all.")
    flags.DEFINE_list("slices", [], "Slices, comma-separated; none means the table's.")
    flags.DEFINE_list("optimizers", [], "adafactor, adamw.")
    flags.DEFINE_list("remat", [], "none, full.")
    flags.DEFINE_bool("missing", False, "Keep the complete rows that the output has.")


if __name__ == "__main__":
    cli.run(main, define_flags)
