"""The arithmetic of record_order.py on tensors; change both, and the tests compare them."""

import tensorflow as tf

from pipeline.data.reading import record_order


def permutation(seed: int, epoch: tf.Tensor, slots: int) -> tf.Tensor:
    """Returns the shard of each slot in an epoch, int32 [slots]."""
    shards = tf.range(slots, dtype=tf.int64)
    return tf.argsort(mix(seed, record_order.PERMUTATION, epoch, shards), stable=True)


def rotation(seed: int, epoch: tf.Tensor, shard: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Returns the row, int64, at which an epoch begins to read a shard of ``count`` rows."""
    return mix(seed, record_order.ROTATION, epoch, tf.cast(shard, tf.int64)) % count


def mix(seed: int, purpose: int, epoch: tf.Tensor, shard: tf.Tensor) -> tf.Tensor:
    """Returns record_order.mix of int64 tensors."""
    state = tf.zeros([], tf.uint64)
    for value in (tf.constant(seed, tf.uint64), tf.constant(purpose, tf.uint64), epoch, shard):
        state = tf.bitwise.bitwise_xor(state, tf.cast(value, tf.uint64)) + tf.constant(record_order.GOLDEN, tf.uint64)
        for shift, factor in ((30, record_order.FIRST), (27, record_order.SECOND)):
            state = _shifted(state, shift) * tf.constant(factor, tf.uint64)
        state = _shifted(state, 31)
    return tf.cast(tf.bitwise.right_shift(state, tf.constant(1, tf.uint64)), tf.int64)


def _shifted(state: tf.Tensor, bits: int) -> tf.Tensor:
    return tf.bitwise.bitwise_xor(state, tf.bitwise.right_shift(state, tf.constant(bits, tf.uint64)))
