"""The evaluation step: the summed negative log-likelihood of a batch over all replicas.

Shapes: B sequences of one replica, T context length.
"""

from collections.abc import Callable

import tensorflow as tf

from models.loss import token_nll
from models.protocols import LanguageModel
from pipeline.devices.replicas import AllReduce, Compiled, Tensors

Batch = dict[str, tf.Tensor]


def make_evaluation_step(
    model: LanguageModel, *, all_reduce: AllReduce, compiled: Compiled = lambda function: function
) -> Callable[[Batch], Tensors]:
    """Returns ``step(batch) -> (summed nll, summed weight)``; ``batch`` also holds ``weights`` float32 [B, T]."""

    def score(tokens: tf.Tensor, weights: tf.Tensor) -> Tensors:
        features = model.features(tokens[:, :-1])
        nll = token_nll(
            tf.reshape(features, [-1, features.shape[-1]]),
            model.table.value,
            tf.reshape(tokens[:, 1:], [-1]),
            vocabulary_size=model.config.known_vocabulary,
        )
        flat = tf.reshape(weights, [-1])
        return [tf.reduce_sum(nll * flat), tf.reduce_sum(flat)]

    score = compiled(score)

    @tf.autograph.experimental.do_not_convert
    def step(batch: Batch) -> Tensors:
        return all_reduce(score(batch["tokens"], batch["weights"]))

    return step
