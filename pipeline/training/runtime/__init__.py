"""What a trainer works on: the run, its state, its data and its devices. The session builds them."""

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from models.protocols import LanguageModel
from pipeline.config.batch_plan import BatchPlan
from pipeline.config.train_config import TrainConfig
from pipeline.optimizers.base import Optimizer
from pipeline.progress import Progress
from pipeline.training.runtime.goodput import Clock
from pipeline.training.runtime.peak import Peak
from pipeline.training.runtime.workers import Workers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """What is trained, and the reference for its speed.

    Attributes:
        settings: steps, intervals and clipping.
        plan: batch arithmetic for the strategy's replicas.
        flops_per_token: model FLOPs, forward and backward.
        peak: of all devices together.
    """

    settings: TrainConfig
    plan: BatchPlan
    flops_per_token: float
    peak: Peak

    def mfu(self, tokens_per_second: float) -> float:
        """Returns the model FLOPs as a share of the peak, at this many tokens per second."""
        return self.peak.share(tokens_per_second * self.flops_per_token)


@dataclasses.dataclass(kw_only=True)
class State:
    """The training state.

    Attributes:
        model, optimizer: created in the strategy's scope.
        step: optimizer steps done.
        record: the newest figures, also saved with each checkpoint.
        records: of each step of the newest loop.
    """

    model: LanguageModel
    optimizer: Optimizer
    step: int = 0
    record: dict[str, Any] = dataclasses.field(default_factory=dict)
    records: list[dict[str, Any]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """The batches.

    Attributes:
        train: step -> distributed dataset whose first element is that step's batch.
        validation: () -> iterator over the distributed batches of the whole validation part; None skips evaluation.
        validation_bytes: UTF-8 bytes of the validation text, for bits per byte; None if not all of the text is scored.
    """

    train: Callable[[int], Any]
    validation: Callable[[], Any] | None
    validation_bytes: int | None


@dataclasses.dataclass(kw_only=True)
class Runtime:
    """The devices and processes of a run, its clock and its line of progress.

    Attributes:
        strategy: a tf.distribute strategy; the default one is enough for one replica.
        workers: the processes that train together.
        watching: context manager for every call that waits for the devices; takes its kind and whether the first one
            compiles; reports a call that does not return.
        progress: of the steps.
        clock: seconds by purpose.
        stop: once set, the run ends after the current loop of steps or evaluation.
        notice: what announced that this machine is about to end, if anything did.
    """

    strategy: tf.distribute.Strategy
    workers: Workers
    watching: Callable[..., contextlib.AbstractContextManager[None]]
    progress: Progress
    clock: Clock = dataclasses.field(default_factory=Clock)
    stop: threading.Event = dataclasses.field(default_factory=threading.Event)
    notice: str | None = None

    @contextlib.contextmanager
    def timed(self, part: str, kind: str, *, compiles: bool = False) -> Iterator[None]:
        """Times a call that waits for the devices as a part of the clock, and watches it."""
        with self.clock.spent_on(part), self.watching(kind, compiles=compiles):
            yield

    def agreed_to_stop(self) -> bool:
        """Whether this process, or another worker, has been told to stop."""
        agreed = self.workers.any(self.stop.is_set())
        if agreed:
            self.stop.set()
        return agreed  # not the flag: a signal during the call would stop only this process

    def stop_for(self, notice: str) -> None:
        """Ends the run as ``stop`` does, because this machine is about to end; the first notice counts."""
        self.notice = self.notice or notice
        self.stop.set()

    def agreed_notice(self) -> str | None:
        """Returns this process's notice, or that another worker has one; None, in all processes, if none of them has.

        Call it in all processes, after the run has stopped: later notices change no answer.
        """
        own = self.notice
        if not self.workers.any(own is not None):
            return None
        return own or "another worker's machine is about to end"

    def one(self, per_replica: Any) -> Any:
        """Returns one replica's value, which is equal on all replicas."""
        return self.strategy.experimental_local_results(per_replica)[0]
