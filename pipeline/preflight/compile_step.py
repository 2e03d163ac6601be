"""Lowers and compiles the exact steps of a run for a slice: whether they fit, and what they cost there.

The lowering and the compiler each run in a separate process, whose end frees their memory.
"""

import dataclasses
import json
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

from models.config import GPT2Config
from pipeline.config import batch_plan
from pipeline.config.batch_plan import BatchPlan
from pipeline.config.train_config import ONE_EPOCH, TrainConfig
from pipeline.devices import slices
from pipeline.errors import UserError, WorkFailedError
from pipeline.optimizers.config import OptimizerConfig
from pipeline.preflight import tpu_compiler
from pipeline.preflight.figures import Figures, figures, gib, report

ROOT = pathlib.Path(__file__).resolve().parents[2]
GPT2_VOCABULARY = 50_257


def require_steps(settings: TrainConfig) -> None:
    """Raises UserError if the number of steps depends on data, which a preflight does not read."""
    if settings.steps == ONE_EPOCH:
        raise UserError(f"train.steps = {ONE_EPOCH} is one pass over data, which is not read; expected train.steps=N")


def with_vocabulary(model: GPT2Config) -> GPT2Config:
    """Returns the model's config, with GPT-2's vocabulary if the data's manifest would decide it."""
    return model if model.vocabulary_size else dataclasses.replace(model, vocabulary_size=GPT2_VOCABULARY)


def report_fit(
    settings: TrainConfig,
    model: GPT2Config,
    optimizer: OptimizerConfig,
    piece: slices.Slice,
    *,
    evaluation: bool = True,
    keep_text: pathlib.Path | None = None,
) -> dict[str, Any]:
    """Compiles the training step and, if it fits, the evaluation step; prints and returns their figures.

    Args:
        settings, model, optimizer: the run's.
        piece: the slice.
        evaluation: whether to compile the evaluation step too.
        keep_text: file for the training step's compiled program, as HLO text.

    Returns:
        The figures as JSON values: those of the training step, ``evaluation``, and ``fits`` for both.
    """
    training = check(settings, model, optimizer, piece, keep_text=keep_text)
    print(report(training, title_of(model, optimizer, settings), piece))
    answer = training.as_json()
    if evaluation and training.fits:
        compiled = check_evaluation(settings, model, optimizer, piece, training)
        answer["evaluation"], answer["fits"] = dataclasses.asdict(compiled), compiled.fits
        verdict = "fits" if compiled.fits else "does NOT fit"
        print(f"evaluation        {verdict}: {gib(compiled.peak_bytes)} GiB with the slots")
    return answer


def title_of(model: GPT2Config, optimizer: OptimizerConfig, settings: TrainConfig) -> str:
    """Returns one line that describes the run."""
    return (
        f"{settings.model} {model.layers} layers × {model.width} wide, context {model.context}, "
        f"{model.parameters():,} parameters; {settings.optimizer}, {settings.compute_dtype}, remat {model.remat}"
    )


def check(
    settings: TrainConfig,
    model: GPT2Config,
    optimizer: OptimizerConfig,
    piece: slices.Slice,
    *,
    keep_text: pathlib.Path | None = None,
) -> Figures:
    """Lowers and compiles the training step; returns its figures."""
    plan = batch_plan.plan(
        global_batch=settings.global_batch, replicas=piece.cores, microbatch=settings.microbatch, context=model.context
    )
    hlo, sizes = lower("train", settings, model, optimizer, plan)
    compiled = tpu_compiler.compile_for(hlo, piece, plan.replicas, keep_text=keep_text)
    return figures(compiled, model=model, sizes=sizes, plan=plan, steps=settings.steps, piece=piece)


def check_evaluation(
    settings: TrainConfig, model: GPT2Config, optimizer: OptimizerConfig, piece: slices.Slice, training: Figures
) -> tpu_compiler.Compiled:
    """Lowers and compiles the evaluation step; returns the compiler's figures, with the slots added.

    The slots are not part of the program, but stay in HBM while it runs.
    """
    plan = batch_plan.BatchPlan(piece.cores * settings.microbatch, piece.cores, 1, settings.microbatch, model.context)
    hlo, _ = lower("evaluation", settings, model, optimizer, plan)
    compiled = tpu_compiler.compile_for(hlo, piece, plan.replicas)
    peak = compiled.peak_bytes + training.memory["slots"]
    return dataclasses.replace(compiled, peak_bytes=peak, fits=compiled.fits and peak <= training.hbm_bytes_per_core)


def lower(
    step: str, settings: TrainConfig, model: GPT2Config, optimizer: OptimizerConfig, plan: BatchPlan
) -> tuple[bytes, dict]:
    """Runs pipeline.preflight.lowering in a process; returns the HLO and the bytes of weights and slots."""
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


def largest_that_fits(
    settings: TrainConfig, model: GPT2Config, optimizer: OptimizerConfig, piece: slices.Slice, sizes: list[int]
) -> Figures:
    """Bisects the microbatches that divide a core's share: if one fits, so do all smaller ones.

    Returns:
        The figures of the largest that fits, or of the smallest if none does.
    """
    low, high, best = 0, len(sizes) - 1, None
    middle = high  # the largest first: in most runs it fits, and nothing else needs to be compiled
    while low <= high:
        tried = check(dataclasses.replace(settings, microbatch=sizes[middle]), model, optimizer, piece)
        if tried.fits:
            best, low = tried, middle + 1
        else:
            high = middle - 1
        middle = (low + high) // 2
    return best or tried
