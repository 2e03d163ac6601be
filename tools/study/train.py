r"""Trains one cell of the study: ``pipeline.train`` with two more optimizers, which only a study has a use for.

    python -m tools.study.train --gin_file=study.gin --gin_param=… \
        --data=… --run_dir=…

The study's TensorFlow version of Adafactor computed beta2 = 1 - t ** -0.8 once, in the constructor, where t is 1: its
decay stayed at 0. So the second moment was never a running mean: every update was normalised by its own gradient alone.
Our Adafactor has no such switch. GroupedAdafactor is ours with a factor for the rate of each group of variables.
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
    """Adafactor's settings, and what multiplies the rate of each group of variables.

    Args:
        tables: the factor of the token and the position table.
        norms: of the layer norms' scales.
        matrices: of the blocks' matrices.
        linear: of ALGPT2's matrices between the tables and the blocks.
        biases: of all biases, the norms' too.
    """

    tables: float = 1.0
    norms: float = 1.0
    matrices: float = 1.0
    linear: float = 1.0
    biases: float = 1.0

    def rate_of(self, name: str, shape: Sequence[int]) -> float:
        """Returns the rate of a variable, by the end of its name."""
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
        """Counts every update as the first one."""

        config_class = FrozenAdafactorConfig

        def updates_done(self) -> tf.Tensor:
            return tf.constant(0.0)

    return FrozenAdafactor


def main() -> int:
    """Trains after letting gin choose the study's optimizers, in its own processes only."""
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
