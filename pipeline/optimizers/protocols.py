"""What the training step and the session ask of an optimizer. Imports neither TensorFlow nor Keras."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import keras
    import tensorflow as tf


class TrainOptimizer(Protocol):
    """An optimizer built on a model's weights; ``base.Optimizer`` documents each member."""

    slot_owners: int
    iterations: keras.Variable
    variables: Sequence[keras.Variable]

    def update(self, gradients: Sequence[tf.Tensor], variables: Sequence[keras.Variable]) -> None:
        """Makes one update in the calling replica."""

    def update_rows(
        self, gradients: Sequence[tf.Tensor], weights: Sequence[tf.Tensor], variables: Sequence[keras.Variable]
    ) -> list[tf.Tensor]:
        """Makes one update of the rows that a replica owns, and returns their new weights."""

    def rate_after(self, updates: int) -> float:
        """Returns the learning rate of the update that follows ``updates`` updates."""

    def slot_bytes(self) -> int:
        """Returns the bytes of all slots on one core."""

    def effective_rates(self, variables: Sequence[keras.Variable]) -> dict[str, float]:
        """Returns each variable's effective learning rate at the schedule's highest point, by path."""
