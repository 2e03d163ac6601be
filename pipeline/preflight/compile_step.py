"""Lowers and compiles a run's exact steps for a slice: whether they fit, and what they cost there.

The lowering and the compiler each run in a separate process, whose end frees their memory.
"""

import dataclasses
import pathlib
from typing import Any

from models.config import GPT2Config
from pipeline.config import attention_path, batch_plan
from pipeline.config.dry_run import GPT2_VOCABULARY
from pipeline.config.train_config import ONE_EPOCH, TrainConfig
from pipeline.devices import own_process, slices
from pipeline.errors import UserError, WorkFailedError
from pipeline.optimizers.config import OptimizerConfig
from pipeline.preflight import lowering, schedule_figures, tpu_compiler
from pipeline.preflight.compiled import Compiled
from pipeline.preflight.figures import Figures, figures, gib, report

LOWERING = "the lowering of the step"


def require_steps(settings: TrainConfig) -> None:
    """Raises UserError if the number of steps depends on data, which a preflight does not read."""
    if settings.steps == ONE_EPOCH:
        raise UserError(f"train.steps = {ONE_EPOCH} is one pass over data, which is not read; expected train.steps=N")


def with_vocabulary(model: GPT2Config) -> GPT2Config:
    """Returns the model's config, with GPT-2's vocabulary if the data's manifest would set it."""
    return model if model.vocabulary_size else dataclasses.replace(model, vocabulary_size=GPT2_VOCABULARY)


def require_fit(
    settings: TrainConfig, model: GPT2Config, optimizer: OptimizerConfig, piece: slices.Slice | None
) -> None:
    """Compiles a run's steps for ``pipeline.train --preflight``, prints their figures, and returns if they fit.

    A model without a vocabulary size gets GPT-2's.

    Raises:
        UserError: the run is not on a slice, its number of steps depends on data, or the compiler is not installed.
        WorkFailedError: it does not fit, or could not be compiled.
    """
    if piece is None:
        raise UserError("--preflight compiles for a TPU slice, and --tpu names none; expected one such as --tpu=v3-8")
    require_steps(settings)
    tpu_compiler.require_compiler()
    if not report_fit(settings, with_vocabulary(model), optimizer, piece)["fits"]:
        raise WorkFailedError(f"the step does not fit {piece.name}, so nothing was started")


def report_fit(
    settings: TrainConfig,
    model: GPT2Config,
    optimizer: OptimizerConfig,
    piece: slices.Slice,
    *,
    evaluation: bool = True,
    keep_text: pathlib.Path | None = None,
    with_schedule: bool = False,
) -> dict[str, Any]:
    """Compiles the training step and, if it fits, the evaluation step; prints their figures.

    Returns them as JSON values: the training step's, ``evaluation``, and ``fits`` for both; ``with_schedule`` adds
    those of schedule_figures.py. Writes the training step's compiled program to ``keep_text``, as HLO text.
    """
    training = check(settings, model, optimizer, piece, keep_text=keep_text, with_schedule=with_schedule)
    title = (
        f"{settings.model} {model.layers} layers × {model.width} wide, context {model.context}, "
        f"{model.parameters():,} parameters; {settings.optimizer}, {settings.compute_dtype}, remat {model.remat}"
    )
    print(report(training, title, piece))
    answer = training.as_json()
    if with_schedule and training.fits:
        schedule = schedule_figures.figures(training.compiled.kernels, piece.specs)
        print(schedule_figures.report(schedule, piece.specs))
        answer |= schedule.as_json()
    if evaluation and training.fits:
        compiled = check_evaluation(settings, model, piece, training)
        answer["evaluation"], answer["fits"] = dataclasses.asdict(compiled), compiled.fits
        verdict = "fits" if compiled.fits else "does NOT fit"
        print(f"evaluation        {verdict}: {gib(compiled.peak_bytes)} GiB with the slots")
    return answer


def check(
    settings: TrainConfig,
    model: GPT2Config,
    optimizer: OptimizerConfig,
    piece: slices.Slice,
    *,
    keep_text: pathlib.Path | None = None,
    with_schedule: bool = False,
) -> Figures:
    """Lowers and compiles the training step; returns its figures."""
    plan = batch_plan.plan(
        global_batch=settings.global_batch, replicas=piece.cores, microbatch=settings.microbatch, context=model.context
    )
    attention = attention_path.choose(settings, model, piece)
    hlo, sizes = own_process.call(LOWERING, lowering.lower_train, model, optimizer, settings, plan, attention.name)
    compiled = tpu_compiler.compile_for(hlo, piece, plan.replicas, keep_text=keep_text, with_schedule=with_schedule)
    return figures(
        compiled, model=model, sizes=sizes, plan=plan, steps=settings.steps, piece=piece, attention=attention
    )


def check_evaluation(settings: TrainConfig, model: GPT2Config, piece: slices.Slice, training: Figures) -> Compiled:
    """Lowers and compiles the evaluation step; returns the compiler's figures, with the slots added.

    The slots are not part of the program, but stay in HBM while it runs.
    """
    plan = batch_plan.BatchPlan(piece.cores * settings.microbatch, piece.cores, 1, settings.microbatch, model.context)
    hlo, _ = own_process.call(LOWERING, lowering.lower_evaluation, model, settings, plan, training.attention)
    compiled = tpu_compiler.compile_for(hlo, piece, plan.replicas)
    peak = compiled.peak_bytes + training.memory["slots"]
    return dataclasses.replace(compiled, peak_bytes=peak, fits=compiled.fits and peak <= training.hbm_bytes_per_core)


def largest_that_fits(
    settings: TrainConfig, model: GPT2Config, optimizer: OptimizerConfig, piece: slices.Slice, sizes: list[int]
) -> Figures:
    """Returns the figures of the largest microbatch of ``sizes`` that fits, or of the smallest if none does.

    Bisects: if one fits, so do all smaller ones.
    """
    low, high, best = 0, len(sizes) - 1, None
    middle = high  # the largest first: in most runs it fits, and no other needs compiling
    while low <= high:
        tried = check(dataclasses.replace(settings, microbatch=sizes[middle]), model, optimizer, piece)
        if tried.fits:
            best, low = tried, middle + 1
        else:
            high = middle - 1
        middle = (low + high) // 2
    return best or tried
