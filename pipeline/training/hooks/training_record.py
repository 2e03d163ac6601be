"""The record of a loop: its loss and gradient norm, the learning rate, and the speed."""

from typing import Any

import tensorflow as tf

from pipeline.training.hooks import Hook, StepInfo
from pipeline.training.runtime import Run, State


class TrainingRecord(Hook):
    """Begins the state's record anew; other hooks add to it."""

    def __init__(self, run: Run, state: State):
        self._run, self._state = run, state
        self._tokens, self._seconds = 0, 0.0  # of this process, after compiling

    def after_steps(self, info: StepInfo) -> None:
        """Computes the figures; a first step, which has no speed, keeps that of the loop before."""
        tokens, before = len(info.history) * self._run.plan.tokens_per_step, self._state.record
        speed = {name: before.get(name) for name in ("tokens_per_second", "mfu")}
        if info.seconds is not None:
            self._tokens, self._seconds = self._tokens + tokens, self._seconds + info.seconds
            speed = {"tokens_per_second": tokens / info.seconds, "mfu": self._run.mfu(tokens / info.seconds)}
        self._state.record = {
            "step": info.step,
            "tokens": info.step * self._run.plan.tokens_per_step,
            "loss": float(info.column("loss").mean()),
            "learning_rate": self.last_rate(info),
            "grad_norm": float(info.column("grad_norm").mean()),
            "skipped": int(info.column("skipped").sum()),
            **speed,
        }

    def last_rate(self, info: StepInfo) -> float:
        """Returns the learning rate of the last step, or the rate that it would have had if it was skipped."""
        optimizer, updated = self._state.optimizer, not info.column("skipped")[-1]
        return optimizer.rate_after(int(tf.convert_to_tensor(optimizer.iterations)) - updated)

    def summary(self) -> dict[str, Any]:
        """Returns the counts, the last loss, and the speed over all steps after compiling."""
        record = self._state.record
        rate, mfu = record["tokens_per_second"], record["mfu"]
        if self._tokens:  # else the run resumed after its last step
            rate = self._tokens / self._seconds
            mfu = self._run.mfu(rate)
        train = {"nats_per_token": record["loss"], "tokens_per_second": rate, "mfu": mfu}
        return {"steps": record["step"], "tokens_seen": record["tokens"], "train": train}
