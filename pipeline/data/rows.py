"""Records as TensorFlow ops: reading them from a file as rows of bytes, and the ids in them.

Letters: K rows, R bytes of a record, T ids a record.
"""

import tensorflow as tf

from pipeline.data import records

LOCAL_BUFFER, REMOTE_BUFFER = 1 << 17, 1 << 22  # read ahead in each open shard; requests to gs:// are dear


def read(
    file: tf.Tensor, record_bytes: int, first: tf.Tensor, after: tf.Tensor, at_once: tf.Tensor, *, remote: bool
) -> tf.data.Dataset:
    """Rows of one file as blocks, uint8 [at_once, R]. All counts are in records, int64.

    Args:
        file: its path.
        record_bytes: R.
        first: where to begin; what is before is not read.
        after: records at the end that are not wanted.
        at_once: K; divides the number of records between.
        remote: the file is on gs://.

    Raises:
        tf.errors.InvalidArgumentError: while iterating, at a file that is no whole number of such blocks.
    """
    chunks = tf.data.FixedLengthRecordDataset(
        file,
        at_once * record_bytes,
        header_bytes=first * record_bytes,
        footer_bytes=after * record_bytes,
        buffer_size=REMOTE_BUFFER if remote else LOCAL_BUFFER,
    )
    return chunks.map(lambda chunk: tf.reshape(tf.io.decode_raw(chunk, tf.uint8), [-1, record_bytes]))


def ids(rows: tf.Tensor, context: int) -> tf.Tensor:
    """Returns the ids, uint16 [..., context + 1], of records, uint8 [..., R]."""
    raw = rows[..., records.tokens_offset(context) : -records.CHECKSUM_BYTES]
    return tf.bitcast(tf.reshape(raw, tf.concat([tf.shape(raw)[:-1], [context + 1, 2]], axis=0)), tf.uint16)


def line_weights(tokens: tf.Tensor, end_of_text: int) -> tf.Tensor:
    """records.padding_weights on tensors: float32 [K, T-1] for ids [K, T]."""
    ended = tf.cumsum(tf.cast(tf.equal(tokens[:, :-1], end_of_text), tf.int32), axis=1)
    return tf.cast(tf.equal(ended, 0), tf.float32)
