"""Builds an optimizer from its settings.

Imports neither TensorFlow nor Keras before ``build`` is called.
"""

from collections.abc import Callable
from functools import partial
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from pipeline.optimizers.config import AdafactorConfig, AdamWConfig, OptimizerConfig, SGDConfig
from pipeline.optimizers.schedules import Schedule

if TYPE_CHECKING:
    from pipeline.optimizers.base import Optimizer


# By the class of the settings; each is imported when it is built.
CLASSES: dict[type[OptimizerConfig], "Callable[[], type[Optimizer]]"] = {
    AdafactorConfig: partial(resolve_name, "pipeline.optimizers.adafactor:Adafactor"),
    AdamWConfig: partial(resolve_name, "pipeline.optimizers.adamw:AdamW"),
    SGDConfig: partial(resolve_name, "pipeline.optimizers.sgd:SGD"),
}


def build(config: OptimizerConfig, schedule: Schedule) -> "Optimizer":
    """Returns the optimizer with these settings, whose learning rate follows the schedule."""
    return CLASSES[type(config)]()(config, schedule)
