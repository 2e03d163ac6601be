"""AdamW: Adam with decoupled weight decay, which does not apply to biases and layer norms.

Kingma & Ba, 2015, https://arxiv.org/abs/1412.6980; Loshchilov & Hutter, 2019, https://arxiv.org/abs/1711.05101.
"""

from typing import ClassVar

import keras
import tensorflow as tf

from pipeline.optimizers.base import Optimizer
from pipeline.optimizers.config import AdamWConfig


@keras.saving.register_keras_serializable("pipeline")
class AdamW(Optimizer):
    """AdamW under the settings of ``AdamWConfig``, which documents them.

    Example:
        >>> from pipeline.optimizers.schedules import Schedule
        >>> weights = keras.Variable([1.0, -2.0], name="weights")
        >>> optimizer = AdamW(AdamWConfig(learning_rate=0.1), Schedule(kind="constant", steps=100))
        >>> optimizer.build([weights])
        >>> optimizer.update([tf.constant([0.5, 0.0])], [weights])
        >>> weights.numpy()
        array([ 0.9, -2. ], dtype=float32)
    """

    config_class: ClassVar[type[AdamWConfig]] = AdamWConfig
    config: AdamWConfig

    def scaled_update(
        self, gradient: tf.Tensor, weights: tf.Tensor, variable: keras.Variable, learning_rate: tf.Tensor
    ) -> tf.Tensor:
        """Returns AdamW's change and assigns the slots."""
        config, slots = self.config, self.slots(variable)
        mean = config.beta1 * tf.convert_to_tensor(slots["mean"]) + (1.0 - config.beta1) * gradient
        moment = config.beta2 * tf.convert_to_tensor(slots["moment"]) + (1.0 - config.beta2) * tf.square(gradient)
        slots["mean"].assign(mean)
        slots["moment"].assign(moment)
        update_number = self.updates_done() + 1.0
        mean_hat = mean / (1.0 - tf.pow(config.beta1, update_number))
        moment_hat = moment / (1.0 - tf.pow(config.beta2, update_number))
        return learning_rate * mean_hat / (tf.sqrt(moment_hat) + config.epsilon)
