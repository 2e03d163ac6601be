"""Causal attention in strips, with a hand-written gradient that keeps one float32 per query, not T probabilities.

The T×T square is cut into strips. A strip of queries sees only the keys up to its last query; a strip of keys sees only
the queries from its first key on. So most of the masked half is never computed. The backward pass recomputes the
probabilities from the logarithm of each softmax's denominator, as FlashAttention does (Dao et al. 2022).

Time is the last axis everywhere. The fused projection then leaves the matrix unit in the layout that scores and their
gradients read, without a transposed copy, and a head's 64 features do not leave half of the lanes empty.

Shapes: B batch, H heads, K head width, T context, Q queries of a strip, S keys of a strip.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf
from tensorflow.compiler.tf2xla.ops import gen_xla_ops  # XlaDynamicUpdateSlice has no public alias

from models.operations import barrier, float32, keep_mask

STRIPS = 4  # 5/8 of the square's work; neither 8 nor 2 is faster by the TPU compiler's estimate
MIN_STRIP = 256  # queries or keys; cutting smaller strips costs a CPU more than the masked half that it saves
MASKED = -1e30


class Dropout(NamedTuple):
    """Dropout of the probabilities: int32 seeds [B, 2], the number of this dropout in the model, and its rate."""

    seeds: tf.Tensor
    site: tf.Tensor | int
    rate: float


def _strips(length: int) -> list[tuple[int, int]]:
    size = max(MIN_STRIP, -(-length // STRIPS))
    return [(start, min(start + size, length)) for start in range(0, length, size)]


def _scores(q_BHKQ: tf.Tensor, k_BHKS: tf.Tensor, first_query: int, first_key: int) -> tf.Tensor:
    """Returns float32 scaled scores [B, H, Q, S]; −1e30 where the key comes after the query."""
    head_width, queries, keys = q_BHKQ.shape[2], q_BHKQ.shape[3], k_BHKS.shape[3]
    scores = tf.einsum("bhkq,bhks->bhqs", float32(q_BHKQ), float32(k_BHKS)) * head_width**-0.5
    allowed = first_key + tf.range(keys)[None, :] <= first_query + tf.range(queries)[:, None]
    return tf.where(allowed, scores, MASKED)


def _strip_mask(
    dropout: Dropout, shape_BHQS: Sequence[int], first_query: int, first_key: int, length: int
) -> tf.Tensor:
    """Returns dropout's factors [B, H, Q, S]; an element's index does not depend on the strips."""
    _, heads, queries, keys = shape_BHQS
    head = tf.range(heads, dtype=tf.int32)[:, None, None]
    query = first_query + tf.range(queries, dtype=tf.int32)[:, None]
    key = first_key + tf.range(keys, dtype=tf.int32)
    return keep_mask(dropout.seeds, dropout.site, (head * length + query) * length + key, dropout.rate)


def _written(x_BHKT: tf.Tensor, strip_BHKS: tf.Tensor, start: int) -> tf.Tensor:
    """Returns ``x_BHKT`` with the strip written at the positions from ``start`` on."""
    if x_BHKT.dtype == tf.bfloat16 and not tf.executing_eagerly():
        # A TPU writes each strip in place as it computes it; a concatenation would copy all strips again.
        return gen_xla_ops.xla_dynamic_update_slice(x_BHKT, strip_BHKS, [0, 0, 0, start])
    return tf.concat([x_BHKT[..., :start], strip_BHKS, x_BHKT[..., start + strip_BHKS.shape[3] :]], 3)


def causal_attention(
    q_BHKT: tf.Tensor, k_BHKT: tf.Tensor, v_BHKT: tf.Tensor, dropout: Dropout | None = None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Attends from every position to itself and those before it; softmax in float32.

    Args:
        q_BHKT: queries in the compute dtype.
        k_BHKT: keys, likewise.
        v_BHKT: values, likewise.
        dropout: of the probabilities, or None.

    Returns:
        The output [B, H, K, T] in the compute dtype, and the logarithm of each softmax's denominator, float32
        [B, H, T].
    """
    length, dtype = q_BHKT.shape[3], q_BHKT.dtype
    # A second product costs a TPU less than writing the float32 scores to memory and reading them back.
    (again_BHKT,) = barrier(q_BHKT) if dtype == tf.bfloat16 else [q_BHKT]
    output, logs = tf.zeros_like(q_BHKT), []
    for start, end in _strips(length):
        q, k, v = q_BHKT[..., start:end], k_BHKT[..., :end], v_BHKT[..., :end]
        highest = tf.reduce_max(_scores(q, k, start, 0), -1, keepdims=True)
        weights = tf.exp(_scores(again_BHKT[..., start:end], k, start, 0) - highest)
        total = tf.reduce_sum(weights, -1)
        if dropout is not None:
            weights *= _strip_mask(dropout, weights.shape, start, 0, length)
        weighted = tf.einsum("bhqs,bhks->bhkq", tf.cast(weights, dtype), v)
        output = _written(output, tf.cast(float32(weighted) / total[:, :, None], dtype), start)  # K divisions, not S
        logs.append(highest[..., 0] + tf.math.log(total))
    return output, tf.concat(logs, 2)


def causal_attention_gradient(
    do_BHKT: tf.Tensor,
    q_BHKT: tf.Tensor,
    k_BHKT: tf.Tensor,
    v_BHKT: tf.Tensor,
    o_BHKT: tf.Tensor,
    log_BHT: tf.Tensor,
    dropout: Dropout | None = None,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns (dq, dk, dv), [B, H, K, T] in the compute dtype, from the inputs and outputs of ``causal_attention``.

    Works by strips of keys: each strip's dk and dv take one product each, and only dq is summed over strips.
    """
    length, dtype = q_BHKT.shape[3], q_BHKT.dtype
    scale = q_BHKT.shape[2] ** -0.5
    # Σ_s p·dp of every query, without the probabilities: it is do·o, with or without dropout.
    shift_BHT = tf.reduce_sum(float32(do_BHKT) * float32(o_BHKT), 2)
    dq, dk_BHKT, dv_BHKT = [], k_BHKT, v_BHKT  # a strip's gradients take the place of its keys and values
    for start, end in reversed(_strips(length)):
        k, v = dk_BHKT[..., start:end], dv_BHKT[..., start:end]
        q, do = q_BHKT[..., start:], do_BHKT[..., start:]
        p = tf.exp(_scores(q, k, start, start) - log_BHT[:, :, start:, None])
        dp = tf.einsum("bhkq,bhks->bhqs", float32(do), float32(v))
        if dtype == tf.bfloat16:
            (p,) = barrier(tf.cast(p, dtype))  # otherwise XLA keeps the float32 form for both readers
        dropped_p = p
        if dropout is not None:
            mask = _strip_mask(dropout, p.shape, start, start, length)
            dropped_p, dp = tf.cast(float32(p) * mask, dtype), dp * mask
        ds = tf.cast(float32(p) * (dp - shift_BHT[:, :, start:, None]) * scale, dtype)
        dk_BHKT = _written(dk_BHKT, tf.einsum("bhqs,bhkq->bhks", ds, q), start)
        dv_BHKT = _written(dv_BHKT, tf.einsum("bhqs,bhkq->bhks", dropped_p, do), start)
        before = [[0, 0], [0, 0], [0, 0], [start, 0]]
        dq.append(tf.pad(float32(tf.einsum("bhqs,bhks->bhkq", ds, k)), before))
    return tf.cast(tf.add_n(dq[::-1]), dtype), dk_BHKT, dv_BHKT


class Attention(NamedTuple):
    """A way to compute attention, with the signatures and (up to rounding) the results of the functions above.

    Attributes:
        forward: as ``causal_attention``.
        gradient: as ``causal_attention_gradient``.
    """

    forward: Callable[..., tuple[tf.Tensor, tf.Tensor]]
    gradient: Callable[..., tuple[tf.Tensor, tf.Tensor, tf.Tensor]]


PLAIN = Attention(causal_attention, causal_attention_gradient)
