"""Builds an optimizer from its settings.

Imports neither TensorFlow nor Keras before ``build`` is called.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from pipeline.optimizers.config import AdafactorConfig, AdamWConfig, MuonConfig, OptimizerConfig, SGDConfig
from pipeline.optimizers.schedules import Schedule

if TYPE_CHECKING:
    from pipeline.optimizers.base import Optimizer


def _adafactor() -> "type[Optimizer]":
    from pipeline.optimizers.adafactor import Adafactor

    return Adafactor


def _adamw() -> "type[Optimizer]":
    from pipeline.optimizers.adamw import AdamW

    return AdamW


def _muon() -> "type[Optimizer]":
    from pipeline.optimizers.muon import Muon

    return Muon


def _sgd() -> "type[Optimizer]":
    from pipeline.optimizers.sgd import SGD

    return SGD


# By the class of the settings; each is imported when it is built.
CLASSES: dict[type[OptimizerConfig], "Callable[[], type[Optimizer]]"] = {
    AdafactorConfig: _adafactor,
    AdamWConfig: _adamw,
    MuonConfig: _muon,
    SGDConfig: _sgd,
}


def build(config: OptimizerConfig, schedule: Schedule) -> "Optimizer":
    """Returns the optimizer with these settings, whose learning rate follows the schedule.

    Raises:
        KeyError: no optimizer has settings of this class.
    """
    return CLASSES[type(config)]()(config, schedule)
