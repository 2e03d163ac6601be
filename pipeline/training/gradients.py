"""What happens to the mean gradient before the update: norms, clipping, and when to skip the update."""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf


class Gradients(NamedTuple):
    """The gradient of each variable, float32, after clipping, and its norms before."""

    clipped: list[tf.Tensor]
    norms: tf.Tensor  # float32 [number of variables]
    global_norm: tf.Tensor  # float32 []


def clip(gradients: Sequence[tf.Tensor], clip_norm: float | None) -> Gradients:
    """Scales the gradients, if ``clip_norm`` is not None, so that their global norm is at most that."""
    squares = [tf.reduce_sum(tf.square(gradient)) for gradient in gradients]
    norm = tf.sqrt(tf.add_n(squares))
    clipped = list(gradients)
    if clip_norm is not None:
        factor = tf.minimum(1.0, clip_norm / tf.maximum(norm, 1e-30))
        clipped = [gradient * factor for gradient in gradients]
    return Gradients(clipped, tf.sqrt(tf.stack(squares)), norm)


def usable(loss: tf.Tensor, global_norm: tf.Tensor, skip_loss_above: float | None) -> tf.Tensor:
    """Whether to update: a bool scalar, false if the loss or a gradient is not finite or the loss is too high."""
    answer = tf.math.is_finite(global_norm) & tf.math.is_finite(loss)
    return answer if skip_loss_above is None else answer & (loss <= skip_loss_above)
