"""Loads a run's model with the weights of its best checkpoint if one is kept, else of its newest."""

import dataclasses
from typing import Any

import tensorflow as tf

import models
from models.config import from_description
from models.protocols import LanguageModel
from pipeline.data.format.tokenizer import Tokenizer
from pipeline.runs.checkpoints import BEST, restore_weights
from pipeline.runs.run_directory import RunDirectory


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A model with its weights, its tokenizer, the step of the weights, its run directory and its strategy."""

    model: LanguageModel
    tokenizer: Tokenizer
    step: int
    identity: dict[str, dict[str, Any]]
    directory: str
    strategy: tf.distribute.Strategy = dataclasses.field(default_factory=tf.distribute.get_strategy)

    @property
    def replicas(self) -> int:
        """Number of copies of the model; each takes its share of a batch."""
        return self.strategy.num_replicas_in_sync


def load(run_dir: str, *, strategy: tf.distribute.Strategy | None = None) -> TrainedModel:
    """Builds a run's model on a strategy's devices and restores its weights; UserError without an undamaged one."""
    directory = RunDirectory(run_dir)
    identity = directory.read_json("run.json")
    strategy = strategy or tf.distribute.get_strategy()
    with strategy.scope():
        model = models.build(from_description(identity["model"]))
    folder = BEST if directory.exists("best.json") else "checkpoints"
    restored = restore_weights(directory.join(folder), model)
    tokenizer = Tokenizer(run_dir, directory.read_text("tokenizer.json").encode())
    return TrainedModel(model, tokenizer, restored.step, identity, run_dir, strategy)
