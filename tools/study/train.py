"""Trains one cell of the study: ``pipeline.train`` with the bug of 2020 as one more optimizer, to measure its cost.

    python -m tools.study.train --gin_file=study.gin --gin_param=… --data=… --run_dir=…

The study's TensorFlow version of Adafactor computed beta2 = 1 - t ** -0.8 once, in the constructor, where t is 1: its
decay stayed at 0. So the second moment was never a running mean: every update was normalised by its own gradient alone.
Our Adafactor has no such switch.
"""

import dataclasses
from typing import TYPE_CHECKING

from pipeline import cli, train
from pipeline.config import gin_reader
from pipeline.optimizers.build import CLASSES
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


def main() -> int:
    """Trains after letting gin choose ``train.optimizer = 'frozen_adafactor'``, in the study's own processes only."""
    gin_reader.SURFACES["FrozenAdafactor"] = FrozenAdafactorConfig
    gin_reader.OPTIMIZERS["frozen_adafactor"] = FrozenAdafactorConfig
    CLASSES[FrozenAdafactorConfig] = frozen_adafactor
    return train.main()


if __name__ == "__main__":
    cli.run(main, train.define_flags)
