"""The scale of the study, bound by gin as ``study``. Imports neither TensorFlow nor Keras."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """The scale of every cell. Smaller: ``--gin_param=study.tokens=65536 --gin_param=study.seeds=1``.

    Attributes:
        tokens: tokens that a cell trains on.
        seeds: runs of a cell that differ in their seed only; error bars are taken over them.
        batch: sequences per optimizer step of the base cell; the batches part halves and doubles it.
        context: tokens per sequence of the base cell; the contexts part halves and doubles it.
        workers: cells that run side by side, each in a process of one thread.
    """

    tokens: int = 524_288
    seeds: int = 3
    batch: int = 8
    context: int = 256
    workers: int = 2

    def __post_init__(self) -> None:
        for name in ("tokens", "seeds", "workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: expected at least 1")
        for name in ("batch", "context"):
            if getattr(self, name) < 2 or getattr(self, name) % 2:
                raise ValueError(f"{name} = {getattr(self, name)}: expected an even number, for it is halved")
        if self.tokens % (2 * self.batch * self.context):
            raise ValueError(
                f"tokens = {self.tokens}: expected a multiple of 2 × batch × context = "
                f"{2 * self.batch * self.context}, the largest step"
            )
