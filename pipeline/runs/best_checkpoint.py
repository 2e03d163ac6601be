"""The weights of the lowest validation loss, kept beside the run's checkpoints in ``best/``."""

import math

from models.protocols import LanguageModel
from pipeline.runs.checkpoints import Checkpoints, state_of
from pipeline.runs.run_directory import RunDirectory

FOLDER = "best"


class BestCheckpoint:
    """Saves a model whenever its loss is the lowest so far; the best loss survives a restart.

    A resumed run repeats the steps after its newest checkpoint and offers the same weights again, so an existing best
    checkpoint never has to be undone.
    """

    def __init__(self, directory: RunDirectory, model: LanguageModel):
        self._directory = directory
        self._checkpoints = Checkpoints(directory.join(FOLDER), state_of(model), keep_last=1)
        self.record: dict[str, float] = directory.read_json("best.json") if directory.exists("best.json") else {}

    def offer(self, step: int, nats_per_token: float) -> bool:
        """Saves the model of ``step`` if its loss is the lowest so far; returns whether it did."""
        if not nats_per_token < self.record.get("nats_per_token", math.inf):  # nor NaN
            return False
        self._checkpoints.save(step, {"nats_per_token": nats_per_token})
        self._checkpoints.wait()
        self.record = {"step": step, "nats_per_token": nats_per_token}
        self._directory.write_json("best.json", self.record)  # after the weights: a kill between saves them again
        return True
