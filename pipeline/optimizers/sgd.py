"""Stochastic gradient descent with heavy-ball momentum (Polyak, 1964), or Nesterov's (Sutskever et al., 2013)."""

import keras
import tensorflow as tf

from pipeline.optimizers.base import Optimizer
from pipeline.optimizers.config import SGDConfig


@keras.saving.register_keras_serializable("pipeline")
class SGD(Optimizer):
    """SGD under the settings of ``SGDConfig``, which documents them.

    Example:
        >>> from pipeline.optimizers.schedules import Schedule
        >>> weights = keras.Variable([1.0, -2.0], name="weights")
        >>> optimizer = SGD(SGDConfig(learning_rate=0.1), Schedule(kind="constant", steps=100))
        >>> optimizer.build([weights])
        >>> optimizer.update([tf.constant([0.5, 0.0])], [weights])
        >>> weights.numpy()
        array([ 0.95, -2.  ], dtype=float32)
    """

    config_class = SGDConfig
    config: SGDConfig

    def scaled_update(
        self, gradient: tf.Tensor, weights: tf.Tensor, variable: keras.Variable, learning_rate: tf.Tensor
    ) -> tf.Tensor:
        """Returns SGD's change and assigns the slots."""
        if not self.config.momentum:
            return learning_rate * gradient
        slot = self.slots(variable)["momentum"]
        velocity = self.config.momentum * tf.convert_to_tensor(slot) + gradient
        slot.assign(velocity)
        return learning_rate * (gradient + self.config.momentum * velocity if self.config.nesterov else velocity)
