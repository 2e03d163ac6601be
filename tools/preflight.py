"""Compiles the exact step that would run, for the exact slice, with the real TPU compiler; no TPU is needed.

    python -m tools.preflight --gin_file=algpt2.gin --tpu=pod-128 [--search] [--json=FILE]

Prints whether it fits, where the memory goes, FLOPs, HBM traffic and a bound of the step's time. Exit code 1 when it
does not fit. Needs requirements-preflight.txt (jax and libtpu), and one to nine minutes per program.
"""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

from absl import flags

from pipeline import cli
from pipeline.config import batch_plan, gin_reader, pretrained
from pipeline.config.batch_plan import BatchPlan
from pipeline.config.run_config import place, say_overridden
from pipeline.config.train_config import ONE_EPOCH, TrainConfig
from pipeline.devices import slices
from pipeline.errors import UserError, WorkFailedError
from pipeline.preflight import tpu_compiler
from pipeline.preflight.figures import Figures, figures, gib, report

FLAGS = flags.FLAGS
ROOT = pathlib.Path(__file__).resolve().parent.parent
GPT2_VOCABULARY = 50_257


def main() -> int:
    gin_files = cli.required_gin_files("a run such as algpt2.gin or gpt2.gin")
    for flag in ("json", "program"):
        file = getattr(FLAGS, flag)
        if file and (os.path.isdir(file) or not os.path.isdir(os.path.dirname(os.path.abspath(file)))):
            raise UserError(f"--{flag}={file}: expected a file in a folder that exists")
    if FLAGS.tpu == "local" or slices.VIRTUAL.fullmatch(FLAGS.tpu or ""):
        raise UserError(f"--tpu={FLAGS.tpu} names no slice to compile for; expected one such as pod-128 or v3-8")
    gin_reader.load(gin_files, FLAGS.gin_param)
    piece = slices.plan(place(FLAGS.tpu)).slice
    if piece is None:
        raise UserError("--tpu is missing, and gin binds no slice; expected one such as pod-128 or v3-8")
    say_overridden(FLAGS.tpu)
    settings = gin_reader.get(TrainConfig)
    if settings.steps == ONE_EPOCH:
        raise UserError(f"train.steps = {ONE_EPOCH} is one pass over data, which are not read; expected train.steps=N")
    model = with_vocabulary(pretrained.model_config(settings))
    optimizer = gin_reader.chosen(gin_reader.OPTIMIZERS, settings.optimizer, "train.optimizer")
    gin_reader.refuse_idle(TrainConfig, type(model), type(optimizer), slices.Slice)
    tpu_compiler.require_compiler()
    if FLAGS.search:
        return search(settings, model, optimizer, piece)
    start = time.monotonic()
    keep = pathlib.Path(FLAGS.program).absolute() if FLAGS.program else None  # the compiler runs in ROOT
    training = check(settings, model, optimizer, piece, keep_text=keep)
    print(report(training, title_of(model, optimizer, settings), piece))
    answer = training.as_json()
    if FLAGS.evaluation and training.fits:
        scoring = evaluation(settings, model, optimizer, piece, training)
        answer["evaluation"], answer["fits"] = dataclasses.asdict(scoring), scoring.fits
        verdict = "fits" if scoring.fits else "does NOT fit"
        print(f"evaluation        {verdict}: {gib(scoring.peak_bytes)} GiB with the slots")
    print(f"took              {time.monotonic() - start:.0f} s")
    write_json(answer)
    return 0 if answer["fits"] else 1


def with_vocabulary(model: Any) -> Any:
    """Returns the model's config with GPT-2's vocabulary where the data's manifest would decide."""
    return model if model.vocabulary_size else dataclasses.replace(model, vocabulary_size=GPT2_VOCABULARY)


def title_of(model: Any, optimizer: Any, settings: TrainConfig) -> str:
    """Returns one line that describes the run that is checked."""
    return (
        f"{settings.model} {model.layers} layers × {model.width} wide, context {model.context}, "
        f"{model.parameters():,} parameters; {settings.optimizer}, {settings.compute_dtype}, remat {model.remat}"
    )


def check(
    settings: TrainConfig, model: Any, optimizer: Any, piece: slices.Slice, *, keep_text: pathlib.Path | None = None
) -> Figures:
    """Lowers and compiles the training step; returns its figures."""
    plan = batch_plan.plan(
        global_batch=settings.global_batch, replicas=piece.cores, microbatch=settings.microbatch, context=model.context
    )
    hlo, sizes = lower("train", settings, model, optimizer, plan)
    compiled = tpu_compiler.compile_for(hlo, piece, plan.replicas, keep_text=keep_text)
    return figures(compiled, model=model, sizes=sizes, plan=plan, steps=settings.steps, piece=piece)


def evaluation(
    settings: TrainConfig, model: Any, optimizer: Any, piece: slices.Slice, training: Figures
) -> tpu_compiler.Compiled:
    """Lowers and compiles the evaluation step; returns what the compiler says, with the slots on top.

    The slots are not part of the program, but stay in HBM while it runs.
    """
    plan = batch_plan.BatchPlan(piece.cores * settings.microbatch, piece.cores, 1, settings.microbatch, model.context)
    hlo, _ = lower("evaluation", settings, model, optimizer, plan)
    compiled = tpu_compiler.compile_for(hlo, piece, plan.replicas)
    peak = compiled.peak_bytes + training.memory["slots"]
    return dataclasses.replace(compiled, peak_bytes=peak, fits=compiled.fits and peak <= training.hbm_bytes_per_core)


def lower(step: str, settings: TrainConfig, model: Any, optimizer: Any, plan: BatchPlan) -> tuple[bytes, dict]:
    """Runs pipeline.preflight.lowering in its own process; returns the HLO and the bytes of weights and slots."""
    job = {
        "step": step,
        "train": dataclasses.asdict(settings),
        "model": {"kind": type(model).__name__, "settings": dataclasses.asdict(model)},
        "optimizer": {"kind": type(optimizer).__name__, "settings": dataclasses.asdict(optimizer)},
        "plan": dataclasses.asdict(plan),
    }
    with tempfile.TemporaryDirectory() as folder:
        job_file, output = pathlib.Path(folder, "job.json"), pathlib.Path(folder, "step.hlo")
        job_file.write_text(json.dumps(job), encoding="utf-8")
        command = [sys.executable, "-m", "pipeline.preflight.lowering", str(job_file), str(output)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode or not output.is_file():
            raise WorkFailedError(f"the step could not be lowered: {' '.join(done.stderr.split())[-2000:]}")
        return output.read_bytes(), json.loads(pathlib.Path(f"{output}.json").read_text(encoding="utf-8"))


def search(settings: TrainConfig, model: Any, optimizer: Any, piece: slices.Slice) -> int:
    """Finds the largest microbatch that fits, with and without rematerialisation, and recommends the faster plan."""
    if settings.global_batch % piece.cores:
        batch_plan.plan(global_batch=settings.global_batch, replicas=piece.cores, microbatch=1, context=model.context)
    share = settings.global_batch // piece.cores
    tried: list[tuple[str, Figures]] = []
    for remat in ("none", "full"):
        variant = dataclasses.replace(model, remat=remat)
        best = largest_that_fits(settings, variant, optimizer, piece, batch_plan.divisors(share))
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
    name = gin_reader.MODELS[settings.model]
    print(f"recommended       --gin_param={name}.remat=\"'{remat}'\" --gin_param=train.microbatch={chosen.microbatch}")
    return 0


def largest_that_fits(settings: TrainConfig, model, optimizer, piece: slices.Slice, sizes: list[int]) -> Figures:
    """Bisects the microbatches that divide a core's share: what fits at one size fits at every smaller one.

    Returns:
        The figures of the largest that fits, or of the smallest where none does.
    """
    low, high, best = 0, len(sizes) - 1, None
    middle = high  # the largest first: it fits most runs, and then nothing else needs to be compiled
    while low <= high:
        tried = check(dataclasses.replace(settings, microbatch=sizes[middle]), model, optimizer, piece)
        if tried.fits:
            best, low = tried, middle + 1
        else:
            high = middle - 1
        middle = (low + high) // 2
    return best or tried


def write_json(answer: dict[str, Any]) -> None:
    """Writes the figures where ``--json`` says."""
    if FLAGS.json:
        pathlib.Path(FLAGS.json).write_text(json.dumps(answer, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    cli.define_gin_flags()
    cli.define_tpu_flag("The slice to compile for, such as pod-128 or v3-8.")
    cli.define_path("json", None, "Also write the figures here.")
    cli.define_path("program", None, "Also write the compiled program's text (HLO) here.")
    flags.DEFINE_bool("search", False, "Find the largest microbatch that fits, with and without rematerialisation.")
    flags.DEFINE_bool("evaluation", True, "Compile the evaluation step too.")
    cli.run(main)
