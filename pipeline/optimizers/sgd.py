"""Stochastic gradient descent with heavy-ball momentum (Polyak, 1964), or Nesterov's (Sutskever et al., 2013)."""

import keras
import tensorflow as tf

from pipeline.optimizers.base import Optimizer
from pipeline.optimizers.config import SGDConfig


@keras.saving.register_keras_serializable("pipeline")
class SGD(Optimizer):
    """SGD under the settings of ``SGDConfig``, which documents them."""

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
