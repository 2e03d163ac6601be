r"""Compiles the exact step for the exact slice with the real TPU compiler; needs no TPU.

    python -m tools.preflight --gin_file=algpt2.gin --tpu=pod-128 \
        [--search | --schedule] [--json=FILE]

Prints whether it fits, where the memory goes, FLOPs, HBM traffic and a bound on the step's time. The exit code is 1 if
it does not fit. Needs requirements-preflight.txt (jax and libtpu), and one to nine minutes per program.
"""

import dataclasses
import json
import pathlib
import time
from typing import Any

from absl import flags

from models.config import GPT2Config
from pipeline import cli
from pipeline.config import batch_plan, gin_reader, pretrained
from pipeline.config.run_config import note_other_models_size, note_overridden_slice, place
from pipeline.config.train_config import TrainConfig
from pipeline.devices import slices, tpu_target
from pipeline.errors import UserError
from pipeline.optimizers.config import OptimizerConfig
from pipeline.preflight import compile_step, tpu_compiler
from pipeline.preflight.figures import Figures, gib

FLAGS = flags.FLAGS


def main() -> int:
    """Compiles the steps of a run for a slice; returns 1 if they do not fit."""
    gin_files = cli.required("gin_file", "a run such as algpt2.gin or gpt2.gin")
    cli.check_files("json", "program")
    if FLAGS.search and FLAGS.schedule:
        raise UserError("--search compiles many steps, and --schedule reads one; expected one of them")
    if FLAGS.tpu == "local" or tpu_target.VIRTUAL.fullmatch(FLAGS.tpu or ""):
        raise UserError(f"--tpu={FLAGS.tpu} names no slice to compile for; expected one such as pod-128 or v3-8")
    configuration = gin_reader.load(gin_files, FLAGS.gin_param)
    target = tpu_target.resolve(place(configuration, FLAGS.tpu))
    target.check_size()
    piece = target.slice
    if piece is None:
        raise UserError("--tpu is missing, and gin binds no slice; expected one such as pod-128 or v3-8")
    note_overridden_slice(configuration, FLAGS.tpu)
    settings = configuration.get(TrainConfig)
    compile_step.require_steps(settings)
    model = compile_step.with_vocabulary(pretrained.model_config(configuration, settings))
    note_other_models_size(configuration, settings, model)
    optimizer = gin_reader.chosen(configuration, gin_reader.OPTIMIZERS, settings.optimizer, "train.optimizer")
    gin_reader.reject_unused_overrides(configuration, TrainConfig, type(model), type(optimizer), slices.Slice)
    tpu_compiler.require_compiler()
    if FLAGS.search:
        return search(settings, model, optimizer, piece)
    start = time.monotonic()
    keep = pathlib.Path(FLAGS.program).absolute() if FLAGS.program else None  # the compiler runs in another folder
    answer = compile_step.report_fit(
        settings,
        model,
        optimizer,
        piece,
        evaluation=FLAGS.evaluation,
        keep_text=keep,
        with_schedule=FLAGS.schedule,
    )
    print(f"took              {time.monotonic() - start:.0f} s")
    write_json(answer)
    return 0 if answer["fits"] else 1


def search(settings: TrainConfig, model: GPT2Config, optimizer: OptimizerConfig, piece: slices.Slice) -> int:
    """Finds the largest microbatch that fits, with and without rematerialization, and recommends the faster plan."""
    if settings.global_batch % piece.cores:
        batch_plan.plan(global_batch=settings.global_batch, replicas=piece.cores, microbatch=1, context=model.context)
    share = settings.global_batch // piece.cores
    tried: list[tuple[str, Figures]] = []
    for remat in ("none", "full"):
        variant = dataclasses.replace(model, remat=remat)
        best = compile_step.largest_that_fits(settings, variant, optimizer, piece, batch_plan.divisors(share))
        tried.append((remat, best))
        if not best.fits:
            print(f"remat {remat:<10} does not fit at any microbatch: {gib(best.peak_bytes_per_core)} GiB at 1")
            continue
        print(
            f"remat {remat:<10} microbatch {best.microbatch} × accumulation {best.accumulation}: "
            f"{gib(best.peak_bytes_per_core)} GiB, {1e3 * (best.estimate_seconds or 0):.1f} ms per step"
        )
    remat, chosen = min(tried, key=lambda row: row[1].estimate_seconds or float("inf"))
    write_json({**chosen.as_json(), "remat": remat, "tried": {name: best.as_json() for name, best in tried}})
    if not chosen.fits:
        return 1
    name = gin_reader.MODELS[settings.model].__name__.removesuffix("Config")
    print(f"recommended       --gin_param={name}.remat=\"'{remat}'\" --gin_param=train.microbatch={chosen.microbatch}")
    return 0


def write_json(answer: dict[str, Any]) -> None:
    """Writes the figures where ``--json`` says."""
    if FLAGS.json:
        pathlib.Path(FLAGS.json).write_text(json.dumps(answer, indent=1) + "\n", encoding="utf-8")


def define_flags() -> None:
    """Defines the flags."""
    cli.define_gin_flags()
    cli.define_tpu_flag("The slice to compile for, such as pod-128 or v3-8.")
    cli.define_path("json", None, "Also write the figures here.")
    cli.define_path("program", None, "Also write the compiled program's text (HLO) here.")
    flags.DEFINE_bool("search", False, "Find the largest microbatch that fits, with and without rematerialization.")
    flags.DEFINE_bool("schedule", False, "Also read the schedule: the bundles of every kernel, by part of the model.")
    flags.DEFINE_bool("evaluation", True, "Compile the evaluation step too.")


if __name__ == "__main__":
    cli.run(main, define_flags)
