"""The weights of the lowest validation loss, with ``train.keep_best``."""

from typing import Any

from pipeline.runs.best_checkpoint import BestCheckpoint
from pipeline.training.hooks import Hook, StepInfo
from pipeline.training.runtime import Runtime, State


class KeepBest(Hook):
    """Offers the weights after each evaluation."""

    def __init__(self, state: State, runtime: Runtime, best: BestCheckpoint):
        self._state, self._runtime, self._best = state, runtime, best

    def after_steps(self, info: StepInfo) -> None:
        """Saves the weights if the evaluation that has just been made is the best."""
        self._offer()

    def summary(self) -> dict[str, Any]:
        """Returns the step and the loss of the best weights; the summary may have made the last evaluation."""
        self._offer()
        return {"best": self._best.record}

    def _offer(self) -> None:
        loss = self._state.record.get("validation.nats_per_token")
        if loss is not None:
            with self._runtime.timed("evaluation", "saving the best weights", compiles=True):
                self._best.offer(self._state.step, loss)
