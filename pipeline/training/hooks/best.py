"""The weights of the lowest validation loss, kept in ``best/`` with ``train.keep_best``."""

import math
from typing import Any

from pipeline.runs.checkpoints import BEST, Checkpoints, state_of
from pipeline.runs.run_directory import RunDirectory
from pipeline.training.hooks import Hook, StepInfo
from pipeline.training.runtime import Runtime, State


class KeepBest(Hook):
    """Saves the model whenever its loss is the lowest so far; the best loss survives a restart.

    A resumed run repeats the steps after its newest checkpoint and offers the same weights again, so a best checkpoint
    never needs to be undone.
    """

    def __init__(self, state: State, runtime: Runtime, directory: RunDirectory):
        self._state, self._runtime, self._directory = state, runtime, directory
        self._checkpoints = Checkpoints(directory.join(BEST), state_of(state.model), keep_last=1)
        self.record: dict[str, float] = directory.read_json("best.json") if directory.exists("best.json") else {}

    def after_steps(self, info: StepInfo) -> None:
        """Offers the weights if an evaluation has just been made."""
        self._after_evaluation()

    def offer(self, step: int, nats_per_token: float) -> bool:
        """Saves the model of ``step`` if its loss is the lowest so far; returns whether it did."""
        if not nats_per_token < self.record.get("nats_per_token", math.inf):  # nor NaN
            return False
        self._checkpoints.save(step, {"nats_per_token": nats_per_token})
        self._checkpoints.wait()
        self.record = {"step": step, "nats_per_token": nats_per_token}
        self._directory.write_json("best.json", self.record)  # after the weights: a kill between saves them again
        return True

    def summary(self) -> dict[str, Any]:
        """Returns the step and the loss of the best weights; the summary may have made the last evaluation."""
        self._after_evaluation()
        return {"best": self.record}

    def _after_evaluation(self) -> None:
        loss = self._state.record.get("validation.nats_per_token")
        if loss is not None:
            with self._runtime.timed("evaluation", "saving the best weights", compiles=True):
                self.offer(self._state.step, loss)
