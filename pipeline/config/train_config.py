"""The settings of a training run, apart from its model and its optimizer."""

import dataclasses
from typing import Literal

from pipeline.optimizers.schedules import Schedule
from pipeline.values import INT32

# These may change between two starts of one run: its mathematics stays the same.
RESUMABLE_CHANGES = frozenset(
    {
        *("microbatch", "steps_per_loop", "evaluate_every", "checkpoint_every", "keep_checkpoints", "keep_every"),
        *("keep_best", "max_skipped_steps", "profile_steps", "sample_prompt", "wandb"),
        "slots",  # of AdamW and Muon
        "attention",  # up to rounding
    }
)


ONE_EPOCH = -1  # of ``steps``
COUNTS = {  # settings that are counts, and their minimum
    **dict.fromkeys(("global_batch", "microbatch", "steps_per_loop", "checkpoint_every", "keep_checkpoints"), 1),
    **dict.fromkeys(("warmup_steps", "evaluate_every", "keep_every", "max_skipped_steps"), 0),
    "steps": ONE_EPOCH,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A run's schedule and batch.

    Attributes:
        model: ``'gpt2'`` or ``'algpt2'``; its size is bound as ``GPT2.layers`` and so on.
        optimizer: ``'adafactor'``, ``'adamw'``, ``'muon'`` or ``'sgd'``; its settings are bound as
            ``Adafactor.learning_rate`` etc.
        pretrained: directory of a model to continue training: a run's, one that ``pipeline.export`` wrote, Hugging
            Face's (config.json, model.safetensors) or OpenAI's (hparams.json, model.ckpt.*). It determines the model's
            size; gin may still set dropout, remat and a shorter context. None starts from random weights.
        steps: total optimizer steps; -1: one pass over the train part.
        global_batch: sequences per optimizer step, over all replicas and microbatches.
        microbatch: sequences that one replica holds at once; accumulation follows from it.
        schedule: shape of the learning rate: ``'linear'``, ``'cosine'``, ``'constant'`` or ``'inverse_sqrt'``, which
            decays from the end of the warm-up and so needs one.
        warmup_steps: steps of linear warm-up to the optimizer's learning rate.
        warmup_fraction: warm-up as a fraction of ``steps``; 0 uses ``warmup_steps``.
        final_fraction: where linear and cosine decay end, as a fraction of the peak.
        clip_norm: global norm to clip the mean gradient to; None does not clip.
        compute_dtype: ``'bfloat16'`` or ``'float32'``; weights, softmax and loss are float32 in both.
        attention: ``'fused'``, a TPU kernel for v4 and later; ``'plain'``, TensorFlow's ops; or ``'auto'``: fused if
            the generation and shapes allow it. Results are equal up to rounding.
        seed: of the initial weights, the order of the records and dropout.
        steps_per_loop: optimizer steps per call of the compiled loop; metrics leave the device once per loop.
        evaluate_every: steps between evaluations of the whole validation part; 0 evaluates only at the end.
        checkpoint_every: steps between checkpoints; the run always writes one at the end.
        keep_checkpoints: number of newest checkpoints to keep.
        keep_every: steps; checkpoints at multiples of it are kept permanently. 0: none.
        keep_best: also keep the weights of the lowest validation loss, in ``best/``; evaluation, generation and export
            then use them.
        skip_loss_above: nats per token; skip the update of a batch whose loss is higher or not finite, and write it to
            incidents.jsonl. None skips only losses that are not finite.
        max_skipped_steps: number of consecutive skipped steps that stops the run.
        profile_steps: (i, j): TensorBoard gets a profile of steps i … j; a few are enough. None: no profile.
        sample_prompt: prompt for a text sample after each evaluation and at the end; empty: no samples.
        wandb: Weights & Biases: ``'auto'`` (online with a key and a network, else offline), ``'offline'`` or ``'off'``.
    """

    model: str
    optimizer: str
    steps: int
    global_batch: int
    microbatch: int
    pretrained: str | None = None
    schedule: Literal["linear", "cosine", "constant", "inverse_sqrt"] = "linear"
    warmup_steps: int = 0
    warmup_fraction: float = 0.0
    final_fraction: float = 0.0
    clip_norm: float | None = 1.0
    compute_dtype: Literal["bfloat16", "float32"] = "bfloat16"
    attention: Literal["auto", "fused", "plain"] = "auto"
    seed: int = 0
    steps_per_loop: int = 100
    evaluate_every: int = 0
    checkpoint_every: int = 1000
    keep_checkpoints: int = 3
    keep_every: int = 0
    keep_best: bool = False
    skip_loss_above: float | None = None
    max_skipped_steps: int = 20
    profile_steps: tuple[int, int] | None = None
    sample_prompt: str = ""
    wandb: Literal["auto", "offline", "off"] = "auto"

    def __post_init__(self) -> None:
        if self.steps < 1 and self.steps != ONE_EPOCH:
            raise ValueError(f"steps = {self.steps}: expected at least 1, or {ONE_EPOCH} for one pass over the data")
        for name, least in COUNTS.items():
            count = getattr(self, name)
            if count < least:
                raise ValueError(f"{name} = {count}: expected {'at least 1' if least else '0 or more'}")
            if count > INT32:
                raise ValueError(f"{name} = {count}: expected at most {INT32:,}")
        for name in ("warmup_fraction", "final_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} = {getattr(self, name)}: expected 0 to 1")
        if self.warmup_fraction and self.warmup_steps and self.warmup_steps != self._warmup(self.steps):
            raise ValueError(
                f"warmup_steps = {self.warmup_steps} and warmup_fraction = {self.warmup_fraction} contradict each "
                f"other: expected one of them to be 0"
            )
        if self.steps > 0 and self.warmup_steps > self.steps:
            raise ValueError(f"warmup_steps = {self.warmup_steps}: expected at most steps = {self.steps}")
        if self.profile_steps is not None:
            first, last = self.profile_steps if len(self.profile_steps) == 2 else (0, 0)
            if not 2 <= first <= last:
                raise ValueError(
                    f"profile_steps = {self.profile_steps}: expected (i, j) with 2 ≤ i ≤ j; step 1 compiles"
                )
        for name, none in (("skip_loss_above", "none"), ("clip_norm", "no clipping")):
            if (bound := getattr(self, name)) is not None and bound <= 0:
                raise ValueError(f"{name} = {bound}: expected a positive number, or None for {none}")

    def resolved(self, sequences: int) -> "TrainConfig":
        """Returns the settings with steps and warm-up resolved for a train part of ``sequences`` sequences."""
        steps = max(1, sequences // self.global_batch) if self.steps == ONE_EPOCH else self.steps
        return dataclasses.replace(self, steps=steps, warmup_steps=self._warmup(steps))

    def _warmup(self, steps: int) -> int:
        return round(self.warmup_fraction * steps) if self.warmup_fraction else self.warmup_steps


def schedule_of(settings: TrainConfig) -> Schedule:
    """Returns the learning rate's schedule."""
    return Schedule(
        kind=settings.schedule,
        steps=settings.steps,
        warmup_steps=settings.warmup_steps,
        final_fraction=settings.final_fraction,
    )


def schedule_note(settings: TrainConfig) -> str | None:
    """Returns a note on a schedule with a surprising effect, or None."""
    if settings.schedule != "inverse_sqrt" or settings.warmup_steps > 1 or settings.warmup_fraction:
        return None
    step = 1000 if settings.steps < 1 else min(1000, settings.steps)
    factor = Schedule(kind="inverse_sqrt", steps=step)(step - 1)
    return (
        f"train.schedule = 'inverse_sqrt' without a warm-up falls from the first step on: the learning rate of step "
        f"{step:,} is {factor:.2g} of the highest; with train.warmup_steps=N it rises until step N and then falls"
    )
