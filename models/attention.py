"""Causal attention in tiles, with a hand-written gradient that keeps one float32 a query instead of T probabilities.

The T×T square is cut into strips of ``TILE`` queries. A strip meets the keys up to its own last query only, so the part
that the causal mask empties is never computed. The backward pass computes the probabilities again from the logarithm of
each softmax's denominator, as FlashAttention does (Dao et al. 2022).

Letters: B batch, H heads, T context, Q queries of a strip, S keys of a strip, K head width.
"""

import tensorflow as tf

from models.operations import float32, keep_mask

TILE = 256  # queries a strip; the diagonal's waste against the number of small products


def split_heads(x_BTD: tf.Tensor, heads: int) -> tf.Tensor:
    """[B, T, D] → [B, H, T, K]."""
    _, length, width = x_BTD.shape
    return tf.transpose(tf.reshape(x_BTD, [-1, length, heads, width // heads]), [0, 2, 1, 3])


def merge_heads(x_BHTK: tf.Tensor) -> tf.Tensor:
    """[B, H, T, K] → [B, T, D]."""
    _, heads, length, head_width = x_BHTK.shape
    return tf.reshape(tf.transpose(x_BHTK, [0, 2, 1, 3]), [-1, length, heads * head_width])


def _strips(length: int) -> list[tuple[int, int]]:
    return [(start, min(start + TILE, length)) for start in range(0, length, TILE)]


def _scores(q_BHQK: tf.Tensor, k_BHSK: tf.Tensor, start: int) -> tf.Tensor:
    """Returns float32 scaled scores [B, H, Q, S] of queries ``start``…, keys after the query at −1e30."""
    queries, keys, head_width = q_BHQK.shape[2], k_BHSK.shape[2], q_BHQK.shape[3]
    scores = tf.matmul(float32(q_BHQK), float32(k_BHSK), transpose_b=True) * head_width**-0.5
    allowed = tf.range(keys)[None, :] <= start + tf.range(queries)[:, None]
    return tf.where(allowed, scores, -1e30)


def _strip_mask(dropout, start: int, queries: int, keys: int, length: int) -> tf.Tensor:
    """Dropout's factors [B, H, Q, S]; a place's number does not depend on the strips."""
    seeds_B2, site, rate, heads = dropout
    row = tf.range(heads, dtype=tf.int32)[:, None, None] * length + (start + tf.range(queries, dtype=tf.int32))[:, None]
    return keep_mask(seeds_B2, site, row * length + tf.range(keys, dtype=tf.int32), rate)


def causal_attention(
    q_BHTK: tf.Tensor, k_BHTK: tf.Tensor, v_BHTK: tf.Tensor, dropout=None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Attends from every position to itself and those before it.

    Args:
        q_BHTK, k_BHTK, v_BHTK: queries, keys, values in the compute dtype.
        dropout: None, or (seeds_B2, site, rate, heads) for dropout of the probabilities.

    Returns:
        The output [B, H, T, K] in the compute dtype, and the logarithm of each softmax's denominator, float32
        [B, H, T, 1].
    """
    length = q_BHTK.shape[2]
    outputs, logs = [], []
    for start, end in _strips(length):
        scores = _scores(q_BHTK[:, :, start:end], k_BHTK[:, :, :end], start)
        highest = tf.reduce_max(scores, -1, keepdims=True)
        weights = tf.exp(scores - highest)
        total = tf.reduce_sum(weights, -1, keepdims=True)
        if dropout is not None:
            weights *= _strip_mask(dropout, start, end - start, end, length)
        weighted = tf.matmul(tf.cast(weights, v_BHTK.dtype), v_BHTK[:, :, :end])
        outputs.append(tf.cast(float32(weighted) / total, v_BHTK.dtype))  # K divisions a query, not S
        logs.append(highest + tf.math.log(total))
    return tf.concat(outputs, 2), tf.concat(logs, 2)


def causal_attention_gradient(
    do_BHTK: tf.Tensor,
    q_BHTK: tf.Tensor,
    k_BHTK: tf.Tensor,
    v_BHTK: tf.Tensor,
    o_BHTK: tf.Tensor,
    log_BHT1: tf.Tensor,
    dropout=None,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns (dq, dk, dv), [B, H, T, K] in the compute dtype, from what ``causal_attention`` took and gave."""
    length, dtype = q_BHTK.shape[2], q_BHTK.dtype
    scale = q_BHTK.shape[3] ** -0.5
    # Σ_s p·dp of every query, without the probabilities: it is do·o, with or without dropout.
    shift_BHT1 = tf.reduce_sum(float32(do_BHTK) * float32(o_BHTK), -1, keepdims=True)
    dq, dk, dv = [], [], []
    for start, end in _strips(length):
        q, k, v = q_BHTK[:, :, start:end], k_BHTK[:, :, :end], v_BHTK[:, :, :end]
        do = do_BHTK[:, :, start:end]
        p = tf.exp(_scores(q, k, start) - log_BHT1[:, :, start:end])
        dp = tf.matmul(float32(do), float32(v), transpose_b=True)
        kept = p
        if dropout is not None:
            mask = _strip_mask(dropout, start, end - start, end, length)
            kept, dp = p * mask, dp * mask
        ds = tf.cast(p * (dp - shift_BHT1[:, :, start:end]) * scale, dtype)
        dq.append(tf.matmul(ds, k))
        beyond = [[0, 0], [0, 0], [0, length - end], [0, 0]]
        dk.append(tf.pad(float32(tf.matmul(ds, q, transpose_a=True)), beyond))
        dv.append(tf.pad(float32(tf.matmul(tf.cast(kept, dtype), do, transpose_a=True)), beyond))
    return tf.concat(dq, 2), tf.cast(tf.add_n(dk), dtype), tf.cast(tf.add_n(dv), dtype)
