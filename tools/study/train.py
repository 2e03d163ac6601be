r"""Trains one cell of the study: ``pipeline.train`` with two more optimizers, which only a study needs.

    python -m tools.study.train --gin_file=study.gin --gin_param=… \
        --data=… --run_dir=…

The study's TensorFlow version of Adafactor computed beta2 = 1 - t ** -0.8 once, in the constructor, where t is 1: its
decay stayed at 0. So the second moment was never a running mean: only its own gradient normalized each update. Our
Adafactor has no such switch. GroupedAdafactor is ours with a factor for the rate of each group of variables.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from models.weight_specs import matrices_in
from pipeline import cli, train
from pipeline.config import gin_reader
from pipeline.optimizers.build import CLASSES
from pipeline.optimizers.config import AdafactorConfig
from tools.study.recipes import OPTIMIZER_NAMES

if TYPE_CHECKING:
    from pipeline.optimizers.base import Optimizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrozenAdafactorConfig(AdafactorConfig):
    """Adafactor's settings, for the frozen decay."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupedAdafactorConfig(AdafactorConfig):
    """Adafactor's settings, and factors for the rate of each group of variables.

    Args:
        tables: the factor for the token and position tables.
        norms: for the layer norms' scales.
        matrices: for the blocks' matrices.
        linear: for ALGPT2's matrices between the tables and the blocks.
        biases: for all biases, including the norms'.
    """

    tables: float = 1.0
    norms: float = 1.0
    matrices: float = 1.0
    linear: float = 1.0
    biases: float = 1.0

    def rate_of(self, name: str, shape: Sequence[int]) -> float:
        """Returns a variable's rate, by the end of its name."""
        ends = {"table": "tables", "scale": "norms", "bias": "biases"}
        group = ends.get(name.rpartition("_")[2]) or ("matrices" if matrices_in(name) else "linear")
        return super().rate_of(name, shape) * float(getattr(self, group))


def grouped_adafactor() -> "type[Optimizer]":
    """Returns the optimizer's class; imports TensorFlow and Keras."""
    from pipeline.optimizers.adafactor import Adafactor

    class GroupedAdafactor(Adafactor):
        """Adafactor, whose rates its configuration knows."""

        config_class = GroupedAdafactorConfig

    return GroupedAdafactor


def frozen_adafactor() -> "type[Optimizer]":
    """Returns the optimizer's class; imports TensorFlow and Keras."""
    import tensorflow as tf

    from pipeline.optimizers.adafactor import Adafactor

    class FrozenAdafactor(Adafactor):
        """Treats every update as the first."""

        config_class = FrozenAdafactorConfig

        def updates_done(self) -> tf.Tensor:
            return tf.constant(0.0)

    return FrozenAdafactor


def main() -> int:
    """Trains after letting gin choose the study's optimizers, only in its own processes."""
    for name, config, optimizer in (
        ("FrozenAdafactor", FrozenAdafactorConfig, frozen_adafactor),
        ("GroupedAdafactor", GroupedAdafactorConfig, grouped_adafactor),
    ):
        gin_reader.SURFACES[name] = config
        gin_reader.OPTIMIZERS[OPTIMIZER_NAMES[name]] = config
        CLASSES[config] = optimizer
    return train.main()


if __name__ == "__main__":
    cli.run(main, train.define_flags)
