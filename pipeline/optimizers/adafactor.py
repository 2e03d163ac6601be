"""Adafactor: adaptive steps that keep the second moment as one row and one column.

Shazeer & Stern, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost", 2018, https://arxiv.org/abs/1804.04235,
algorithms 4 and 5. For GPT-2 xl the slots take 4 MB where AdamW's take 12.5 GB.

At update t = 1, 2, ... with gradient G of a weight X:

    beta2   = 1 - t ** -0.8                         (0 at the first update, and growing with every update)
    row     = beta2 · row    + (1 - beta2) · mean over the largest axis of (G² + epsilon1)
    column  = beta2 · column + (1 - beta2) · mean over the second largest axis of (G² + epsilon1)
    U       = G / sqrt(row · column / mean(row))
    U       = U / max(1, RMS(U) / clip_threshold)
    X       = X - learning_rate · max(epsilon2, RMS(X)) · U

beta1, if set, averages the scaled update, learning rate and parameter scale included, as in optax and T5X.
"""

import keras
import tensorflow as tf

from pipeline.optimizers.base import Optimizer, mean_square, real_size
from pipeline.optimizers.config import AdafactorConfig, largest_axes


@keras.saving.register_keras_serializable("pipeline")
class Adafactor(Optimizer):
    """Adafactor under the settings of ``AdafactorConfig``, which documents them.

    Example:
        >>> from pipeline.optimizers.schedules import Schedule
        >>> weights = keras.Variable([1.0, -2.0], name="weights")
        >>> config = AdafactorConfig(learning_rate=0.1, scale_by_parameter=False)
        >>> optimizer = Adafactor(config, Schedule(kind="constant", steps=100))
        >>> optimizer.build([weights])
        >>> optimizer.update([tf.constant([0.5, 0.0])], [weights])
        >>> weights.numpy()
        array([ 0.9, -2. ], dtype=float32)
    """

    config_class = AdafactorConfig
    config: AdafactorConfig

    @property
    def scales_by_weights(self) -> bool:
        """Whether the settings scale by the parameters."""
        return self.config.scale_by_parameter

    def parameter_scale(self, mean_square: tf.Tensor) -> tf.Tensor:
        """Returns max(epsilon2, RMS(X))."""
        return tf.maximum(self.config.epsilon2, tf.sqrt(mean_square))

    def scaled_update(
        self, gradient: tf.Tensor, weights: tf.Tensor, variable: keras.Variable, learning_rate: tf.Tensor
    ) -> tf.Tensor:
        """Returns Adafactor's change and assigns the slots."""
        config = self.config
        # Computed from the counter in every update: a value computed once would stay at 0.
        beta2 = 1.0 - tf.pow(self.updates_done() + 1.0, -config.decay_exponent)
        axes = largest_axes(tuple(variable.shape), config.min_dim_size_to_factor)
        if axes is None:
            update = gradient * self._unfactored_scale(gradient, variable, beta2)
        else:
            update = gradient * self._factored_scale(gradient, variable, beta2, axes)
        step_size = learning_rate
        if config.clip_threshold is not None:
            rms = tf.sqrt(mean_square(update, variable))
            step_size /= tf.maximum(1.0, rms / config.clip_threshold)
        update *= step_size
        if not config.beta1:
            return update
        momentum = self.slots(variable)["momentum"]
        update = config.beta1 * tf.convert_to_tensor(momentum) + (1.0 - config.beta1) * update
        momentum.assign(update)
        return update

    def _unfactored_scale(self, gradient: tf.Tensor, variable: keras.Variable, beta2: tf.Tensor) -> tf.Tensor:
        slot = self.slots(variable)["moment"]
        moment = beta2 * tf.convert_to_tensor(slot) + (1.0 - beta2) * (tf.square(gradient) + self.config.epsilon1)
        slot.assign(moment)
        return tf.math.rsqrt(moment)

    def _factored_scale(
        self, gradient: tf.Tensor, variable: keras.Variable, beta2: tf.Tensor, axes: tuple[int, int]
    ) -> tf.Tensor:
        """Returns 1 / sqrt(row · column / mean(row)) and assigns the slots; axes are (second largest, largest)."""
        second, largest = axes
        slots = self.slots(variable)
        squares = tf.square(gradient)
        row_mean = tf.reduce_sum(squares, axis=largest) / _real_length(variable, largest)
        column_mean = tf.reduce_sum(squares, axis=second) / _real_length(variable, second)
        row, column = (
            beta2 * tf.convert_to_tensor(slots[name]) + (1.0 - beta2) * (mean + self.config.epsilon1)
            for name, mean in (("row", row_mean), ("column", column_mean))
        )
        slots["row"].assign(row)
        slots["column"].assign(column)
        # Two roots, not one of the product: row · column, each of the size of G², would underflow.
        second_in_row = second - 1 if second > largest else second
        row_average = tf.reduce_sum(row, axis=second_in_row, keepdims=True) / _real_length(variable, second)
        return tf.expand_dims(tf.math.rsqrt(row / row_average), largest) * tf.expand_dims(tf.math.rsqrt(column), second)


def _real_length(variable: keras.Variable, axis: int) -> float:
    """Returns the axis's length without padding rows, which only the first axis can have.

    Padding rows have zero gradients. If they counted, 47 rows of 50,304 would change the table's clipping and parameter
    scale by 0.05 %. The factors would not change, because the same share cancels in column / mean(row).
    """
    length = variable.shape[axis]
    return length * real_size(variable) / variable.shape.num_elements() if axis == 0 else float(length)
