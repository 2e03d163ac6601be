"""Record checksums inside a tf.data graph, where neither Python nor TensorFlow's own crc32c can be called.

Letters: R records, T ids a record.

Two checks, both part of the graph, so that they also run on a remote TPU host:

* Every record: the bytes in front of its ids (35 for context 1,024) are the same in all records, the checksum of the
  length among them, and are compared. A file that is misaligned, truncated or of another context cannot pass. Nor can
  a lost disk page or network block: 4,096 bytes are more than a record and its head, so they always hit one.
* Every ``SAMPLE``-th record, another residue each block: the crc32c of its ids, against smaller damage such as a
  flipped bit. A run that visits a record e times looks at it e/SAMPLE times on average, so that damage that touches
  1,000 records is found in the first pass with a probability of 98 %. tools.verify looks at all of them.

Measured by ``python -m tools.bench --only=read`` (``cost_of_checks``); verifying every record so would cost more than
half of the speed, since TensorFlow has no crc32c instruction to offer.

A crc is linear over GF(2), apart from a constant: the crc of the ids is the exclusive or of one table entry for each
byte. The tables are laid out by byte position, and many records are looked up together, so each stays in cache.
"""

import functools

import google_crc32c
import numpy as np
import tensorflow as tf

from pipeline.data import records

SAMPLE = 256
POLYNOMIAL = 0x82F63B78  # Castagnoli, reflected


@functools.cache
def tables(context: int) -> tuple[np.ndarray, int]:
    """Returns (int32 [2T, 256] contribution of each value at each byte position, crc of a record whose ids are 0)."""
    id_bytes = 2 * (context + 1)
    bits = np.zeros([id_bytes * 8], np.uint32)
    state = 1
    for place in range(len(bits) - 1, -1, -1):  # the last bit is shifted once, the first one id_bytes * 8 times
        state = state >> 1 ^ (POLYNOMIAL if state & 1 else 0)
        bits[place] = state
    values = np.arange(256, dtype=np.uint32)
    table = np.zeros([id_bytes, 256], np.uint32)
    for bit, contribution_P1 in enumerate(bits.reshape(id_bytes, 8).T[:, :, None]):
        table ^= np.where(values[None] >> np.uint32(bit) & 1, contribution_P1, np.uint32(0))
    return table.view(np.int32), google_crc32c.value(records.example_header(context) + bytes(id_bytes))


def checksum_matches(records_RB: tf.Tensor, context: int) -> tf.Tensor:
    """Returns bool [R]: whether the stored checksum of each record (uint8 [R, record_bytes]) is that of its ids."""
    table, of_zeros = tables(context)
    head = records.tokens_offset(context)
    ids_PR = tf.transpose(records_RB[:, head : -records.CHECKSUM_BYTES])
    places = tf.range(table.shape[0], dtype=tf.int32)[:, None] * 256
    contributions_PR = tf.gather(tf.constant(table.reshape(-1)), places + tf.cast(ids_PR, tf.int32))
    crc = tf.bitcast(_exclusive_or(contributions_PR), tf.uint32) ^ tf.constant(of_zeros, tf.uint32)
    masked = tf.cast(crc, tf.int64)
    masked = (masked // 2**15 + masked % 2**15 * 2**17 + 0xA282EAD8) % 2**32
    stored = tf.cast(tf.bitcast(records_RB[:, -records.CHECKSUM_BYTES :], tf.uint32), tf.int64)
    return tf.equal(masked, stored)


def _exclusive_or(x_PR: tf.Tensor) -> tf.Tensor:
    """Returns the exclusive or over the first axis, [R]. TensorFlow has no such reduction: halve powers of two."""
    begin, length = 0, x_PR.shape[0]
    total = tf.zeros_like(x_PR[:1])
    while begin < length:
        width = 1 << (length - begin).bit_length() - 1
        part_PR = x_PR[begin : begin + width]
        begin += width
        while width > 1:
            width //= 2
            part_PR = tf.bitwise.bitwise_xor(part_PR[:width], part_PR[width:])
        total = tf.bitwise.bitwise_xor(total, part_PR)
    return total[0]


def assert_sound(records_RB: tf.Tensor, context: int, turn: tf.Tensor, where_R: tf.Tensor, name: str) -> tf.Operation:
    """Raises InvalidArgumentError at the first record of a block that fails a check.

    Args:
        records_RB: uint8 [R, record_bytes].
        context: the records' context.
        turn: int64 scalar, number of the block, which decides the sample.
        where_R: int64 [R], what to call each record in the message: its place in the order.
        name: of the part and its directory.
    """
    frame = tf.constant(np.frombuffer(records.record_frame(context), np.uint8))
    framed_R = tf.reduce_all(tf.equal(records_RB[:, : frame.shape[0]], frame), axis=1)
    count = tf.shape(records_RB, tf.int64)[0]
    sampled = tf.range(tf.minimum(turn % SAMPLE, count), count, SAMPLE)
    matches = checksum_matches(tf.gather(records_RB, sampled), context)
    sound_R = tf.tensor_scatter_nd_update(framed_R, sampled[:, None], tf.gather(framed_R, sampled) & matches)
    bad = tf.boolean_mask(where_R, ~sound_R)[:1]
    message = f"{name}: a record is damaged (python -m tools.verify names the shard); its place in the order:"
    return tf.debugging.Assert(tf.reduce_all(sound_R), [message, bad])
