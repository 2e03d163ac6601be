"""Softmax cross entropy over a large vocabulary: never holds all logits, and computes the gradient in the same pass.

A compiled loop runs over chunks of tokens. For each it multiplies features with the table, takes the float32 softmax,
and computes the gradients of both while the chunk's logits are available. The backward pass only scales these by the
incoming gradient. An unrolled loop with recomputation saves nothing: XLA keeps all chunks alive together.

Shapes: N tokens, C tokens of a chunk, E table width, V vocabulary (the table's rows, padding included).
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from models.operations import barrier, float32, scoped

# Bytes of a chunk's exponentials if no chunk is given: on a TPU all 4,096 tokens of a typical microbatch are one
# chunk, so that the table's gradient is written once; a CPU is 1.2 times faster with 1,024 tokens than with 2,048.
CHUNK_BYTES = {tf.bfloat16: 1 << 29, tf.float32: 1 << 28}
SAMPLE_SHARE = 8  # of the table; a byte-pair encoding's first rows are its most frequent tokens
SAMPLE_FROM = 8192  # rows; sampling a smaller table is not worth it
SAMPLE_MARGIN = 32.0  # nats: splits float32's range of e^±88 between logits above the sample and far below it
_NEVER = -1e30  # a logit of probability 0, but finite, so that 0 · logit is 0


def _chunks(
    x_NE: tf.Tensor, table_VE: tf.Tensor, labels_N: tf.Tensor, weights_N: tf.Tensor, chunk: int | None
) -> list[tf.Tensor]:
    """Splits into even chunks, padded with tokens of weight 0: [n, C, E], [n, C], [n, C]."""
    total = x_NE.shape[0]
    limit = chunk or max(1, CHUNK_BYTES[x_NE.dtype] // (table_VE.shape[0] * x_NE.dtype.size))
    count = -(-total // min(limit, total))
    size = -(-total // count)
    extra = count * size - total
    x = tf.reshape(tf.pad(x_NE, [[0, extra], [0, 0]]), [count, size, x_NE.shape[1]])
    return [x, *(tf.reshape(tf.pad(y, [[0, extra]]), [count, size]) for y in (labels_N, float32(weights_N)))]


def _shift(x_CE: tf.Tensor, table_VE: tf.Tensor, logits_of: Callable[..., tf.Tensor], *, sampled: bool) -> tf.Tensor:
    """Returns the value subtracted from a token's logits before they are exponentiated, [C, 1].

    Any shift gives the same softmax as long as nothing overflows or underflows. The highest logit is always safe, and
    costs nothing if the logits go through memory anyway. In bfloat16 they do not, and finding it would cost a fourth
    product with the table. So training uses the highest of the first eighth of the table plus SAMPLE_MARGIN: exact
    unless a logit is more than 100 nats above those. Then the loss is infinite and the step is skipped.
    """
    rows = table_VE.shape[0]
    if sampled and rows >= SAMPLE_FROM:
        rows = rows // SAMPLE_SHARE // 128 * 128
        return tf.reduce_max(logits_of(x_CE, rows), -1, keepdims=True) + SAMPLE_MARGIN
    return tf.reduce_max(logits_of(x_CE, rows), -1, keepdims=True)


def _table(table_VE: tf.Tensor, vocabulary_size: int, dtype: tf.DType) -> tf.Tensor:
    """Returns the table in ``dtype``, once for all chunks; in float32 with copies of the first row as its padding.

    The highest logit is then a real token's, without a masking pass over all logits. In bfloat16 the mask is part of a
    fusion and costs nothing.
    """
    extra = table_VE.shape[0] - vocabulary_size
    if dtype == tf.bfloat16 or not extra:
        return tf.cast(table_VE, dtype)
    return tf.concat([table_VE[:vocabulary_size], tf.repeat(table_VE[:1], extra, 0)], 0)


def _softmax(
    x_CE: tf.Tensor, table_VE: tf.Tensor, labels_C: tf.Tensor, vocabulary_size: int, *, sampled: bool
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns nll [C], exponentials [C, V], zero for the padding, and their sums [C, 1], all float32."""
    is_bfloat16 = x_CE.dtype == tf.bfloat16

    def logits_of(x_CE: tf.Tensor, rows: int) -> tf.Tensor:
        logits = tf.matmul(float32(x_CE), float32(table_VE[:rows]), transpose_b=True)
        return tf.where(tf.range(rows)[None, :] < vocabulary_size, logits, _NEVER) if is_bfloat16 else logits

    highest = _shift(x_CE, table_VE, logits_of, sampled=sampled)
    if is_bfloat16:
        # Recomputed, not kept: writing and reading the float32 logits would cost a TPU more traffic.
        x_CE, highest = barrier(x_CE, highest)
    logits = logits_of(x_CE, table_VE.shape[0])
    powers = tf.exp(logits - highest)
    if is_bfloat16:  # a masked sum joins the fusion that computes the logits
        label_logit = tf.reduce_sum(tf.where(_hits(labels_C, table_VE), logits, 0.0), -1)
    else:  # there is no such fusion, and a row of the table is smaller than a row of logits
        powers = tf.where(tf.range(table_VE.shape[0])[None, :] < vocabulary_size, powers, 0.0)
        label_logit = tf.reduce_sum(x_CE * tf.gather(table_VE, labels_C), -1)
    total = tf.reduce_sum(powers, -1, keepdims=True)
    return (highest + tf.math.log(total))[:, 0] - label_logit, powers, total


def _hits(labels_C: tf.Tensor, table_VE: tf.Tensor) -> tf.Tensor:
    return tf.range(table_VE.shape[0])[None, :] == labels_C[:, None]


@scoped("loss")
def token_nll(
    x_NE: tf.Tensor, table_VE: tf.Tensor, labels_N: tf.Tensor, *, vocabulary_size: int, chunk: int | None = None
) -> tf.Tensor:
    """Returns each token's negative log-likelihood, float32 [N] in nats. For evaluation: use it without a gradient.

    Args:
        x_NE: features, float32 or bfloat16.
        table_VE: float32 token table; rows from ``vocabulary_size`` on are padding and have probability 0.
        labels_N: int32, below ``vocabulary_size``.
        vocabulary_size: tokens that exist.
        chunk: tokens whose exponentials are held at once; None means as many as CHUNK_BYTES allows.
    """
    table = _table(table_VE, vocabulary_size, x_NE.dtype)
    parts = _chunks(x_NE, table, labels_N, tf.ones_like(labels_N, tf.float32), chunk)

    def score(index: tf.Tensor, array: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
        x, labels, _ = (tf.gather(part, index) for part in parts)
        return index + 1, array.write(index, _softmax(x, table, labels, vocabulary_size, sampled=False)[0])

    count, width = parts[1].shape
    array = tf.TensorArray(tf.float32, size=count, element_shape=[width])
    _, array = tf.while_loop(lambda index, _: index < count, score, (0, array), maximum_iterations=count)
    return tf.reshape(array.stack(), [-1])[: x_NE.shape[0]]


def summed_nll(
    x_NE: tf.Tensor,
    table_VE: tf.Tensor,
    labels_N: tf.Tensor,
    weights_N: tf.Tensor,
    *,
    vocabulary_size: int,
    chunk: int | None = None,
) -> tf.Tensor:
    """Returns Σ weight · negative log-likelihood in nats, a float32 scalar differentiable in features and table.

    Args:
        x_NE: features, float32 or bfloat16; their gradient has their dtype.
        table_VE: float32 token table; its gradient is float32, zero in the padding rows.
        labels_N: int32, below ``vocabulary_size``.
        weights_N: float32, 0 for tokens that are not scored; no gradient.
        vocabulary_size: tokens that exist; the table's other rows have probability 0.
        chunk: tokens whose exponentials are held at once; None means as many as CHUNK_BYTES allows.
    """

    @tf.custom_gradient
    @scoped("loss")
    def summed(x_NE: tf.Tensor, table_VE: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        parts = _chunks(x_NE, table_VE, labels_N, weights_N, chunk)
        count, width = parts[1].shape
        table = _table(table_VE, vocabulary_size, x_NE.dtype)
        is_bfloat16 = x_NE.dtype == tf.bfloat16

        def body(index: tf.Tensor, loss: tf.Tensor, array: tf.TensorArray, d_table: tf.Tensor) -> tuple[Any, ...]:
            x, labels, weights = (tf.gather(part, index) for part in parts)
            nll, powers, total = _softmax(x, table, labels, vocabulary_size, sampled=is_bfloat16)
            # Softmax minus one-hot, times the denominator, by which ``share`` divides later.
            if is_bfloat16:
                powers, total = barrier(tf.cast(powers, x.dtype), total)  # kept once, in half the bytes
                powers = tf.cast(float32(powers) - tf.where(_hits(labels, table), total, 0.0), x.dtype)
            share = weights[:, None] / total
            d_table += tf.matmul(float32(powers), float32(tf.cast(float32(x) * share, x.dtype)), transpose_a=True)
            dx = float32(powers @ table) * share
            if not is_bfloat16:  # the one-hot's part separately, or it costs a pass over all exponentials
                dx -= tf.gather(table, labels) * weights[:, None]
            return index + 1, loss + tf.reduce_sum(nll * weights), array.write(index, tf.cast(dx, x.dtype)), d_table

        array = tf.TensorArray(x_NE.dtype, size=count, element_shape=[width, x_NE.shape[1]])
        start = (0, tf.constant(0.0), array, tf.zeros(table_VE.shape, tf.float32))
        _, loss, array, d_table = tf.while_loop(lambda index, *_: index < count, body, start, maximum_iterations=count)
        dx = tf.reshape(array.stack(), [-1, x_NE.shape[1]])[: x_NE.shape[0]]
        if not is_bfloat16:
            d_table = tf.tensor_scatter_nd_sub(d_table, labels_N[:, None], x_NE * float32(weights_N)[:, None])

        @scoped("loss")
        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return tf.cast(float32(dx) * upstream, dx.dtype), d_table * upstream

        return loss, gradient

    return summed(x_NE, table_VE)
