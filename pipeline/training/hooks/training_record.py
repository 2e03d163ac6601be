"""The record of a loop (mean loss, gradient norm and speed), and the record of each of its steps."""

from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.training.hooks import Hook, StepInfo
from pipeline.training.runtime import Run, State


class TrainingRecord(Hook):
    """Starts a new record in the state; other hooks add to it."""

    def __init__(self, run: Run, state: State):
        self._run, self._state = run, state
        self._tokens, self._seconds = 0, 0.0  # of this process, after compiling

    def after_steps(self, info: StepInfo) -> None:
        """Computes the figures; a first step has no speed and keeps that of the loop before."""
        records = self._state.records = self.of_each_step(info)
        tokens, before = len(records) * self._run.plan.tokens_per_step, self._state.record
        speed = {name: before.get(name) for name in ("tokens_per_second", "mfu")}
        if info.seconds is not None:
            self._tokens, self._seconds = self._tokens + tokens, self._seconds + info.seconds
            speed = {"tokens_per_second": tokens / info.seconds, "mfu": self._run.mfu(tokens / info.seconds)}
        self._state.record = {
            **records[-1],
            "loss": float(info.column("loss").mean()),
            "grad_norm": float(info.column("grad_norm").mean()),
            "skipped": int(info.column("skipped").sum()),
            **speed,
        }

    def of_each_step(self, info: StepInfo) -> list[dict[str, Any]]:
        """Returns each step's figures; only the loop's end is known, so its steps count as equally long."""
        count, per_step = len(info.history), self._run.plan.tokens_per_step
        each = (info.seconds or 0.0) / count
        columns = zip(info.column("loss"), self.rates(info), info.column("grad_norm"), strict=True)
        return [
            {
                "step": step,
                "tokens": step * per_step,
                "loss": _short(loss),
                "learning_rate": _short(rate),
                "grad_norm": _short(norm),
                "time": round(info.ended - (info.step - step) * each, 3),
            }
            for step, (loss, rate, norm) in enumerate(columns, info.step - count + 1)
        ]

    def rates(self, info: StepInfo) -> list[float]:
        """Returns the learning rate of each step, or the rate that it would have had if it was skipped."""
        optimizer, updated = self._state.optimizer, 1 - info.column("skipped")
        since = np.cumsum(updated[::-1])[::-1]  # updates from each step to the last, both included
        done = int(tf.convert_to_tensor(optimizer.iterations)) - since
        return [optimizer.rate_after(int(updates)) for updates in done]

    def summary(self) -> dict[str, Any]:
        """Returns the counts, the last loss, and the speed over all steps after compiling."""
        record = self._state.record
        rate, mfu = record["tokens_per_second"], record["mfu"]
        if self._tokens:  # otherwise the run resumed after its last step
            rate = self._tokens / self._seconds
            mfu = self._run.mfu(rate)
        train = {"nats_per_token": record["loss"], "tokens_per_second": rate, "mfu": mfu}
        return {"steps": record["step"], "tokens_seen": record["tokens"], "train": train}


def _short(value: float) -> float:
    """Returns the number with nine digits, which tell any two float32 apart: half the length in a file."""
    return float(f"{value:.9g}")
