"""The bug of the 2020 study, kept to measure its cost: an Adafactor whose decay stays at its first value, 0.

Its TensorFlow version computed beta2 = 1 - t ** -0.8 once, in the constructor, where t is 1. So the second moment was
never a running mean: every update was normalised by its own gradient alone. Our Adafactor has no such switch.
"""

import dataclasses
from typing import TYPE_CHECKING

from pipeline.optimizers.config import AdafactorConfig

if TYPE_CHECKING:
    from pipeline.optimizers.base import Optimizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrozenAdafactorConfig(AdafactorConfig):
    """Adafactor's settings, for the frozen decay."""


def frozen_adafactor() -> "type[Optimizer]":
    """Returns the optimizer's class; imports TensorFlow and Keras."""
    import tensorflow as tf

    from pipeline.optimizers.adafactor import Adafactor

    class FrozenAdafactor(Adafactor):
        """Counts every update as the first one."""

        config_class = FrozenAdafactorConfig

        def updates_done(self) -> tf.Tensor:
            return tf.constant(0.0)

    return FrozenAdafactor
