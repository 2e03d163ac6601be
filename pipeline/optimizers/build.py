"""Builds an optimizer from its settings.

Imports neither TensorFlow nor Keras before ``build`` is called.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pipeline.optimizers.config import AdafactorConfig, AdamWConfig, MuonConfig, OptimizerConfig, SGDConfig
from pipeline.optimizers.schedules import Schedule

if TYPE_CHECKING:
    import keras

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


def in_words(optimizer: "Optimizer", variables: "Sequence[keras.Variable]") -> str:
    """Returns a line with the slots' bytes and the effective learning rates at the schedule's highest point."""
    rates = optimizer.effective_rates(variables)
    least = min(rates, key=rates.__getitem__)
    highest = max(rates.values())
    down_to = f", down to {rates[least]:.1e} of {least}" if rates[least] < highest else ""
    slots = f"optimizer slots {optimizer.slot_bytes() / 2**20:,.1f} MiB per replica"
    return f"{slots}; effective learning rate {highest:.1e}{down_to}"
