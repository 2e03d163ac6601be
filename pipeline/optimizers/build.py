"""Builds an optimizer from its settings; imports neither TensorFlow nor Keras before that."""

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from pipeline.optimizers.config import AdafactorConfig, AdamWConfig, OptimizerConfig, SGDConfig
from pipeline.optimizers.schedules import Schedule

if TYPE_CHECKING:
    from pipeline.optimizers.base import Optimizer


def _class(name: str) -> "Callable[[], type[Optimizer]]":
    """Returns a function that imports the optimizer of this name, from the module of its name."""
    return lambda: getattr(importlib.import_module(f"pipeline.optimizers.{name.lower()}"), name)


CLASSES = {AdafactorConfig: _class("Adafactor"), AdamWConfig: _class("AdamW"), SGDConfig: _class("SGD")}


def build(config: OptimizerConfig, schedule: Schedule) -> "Optimizer":
    """Returns the optimizer with these settings, whose learning rate follows the schedule."""
    return CLASSES[type(config)]()(config, schedule)
