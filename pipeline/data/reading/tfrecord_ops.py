"""TensorFlow ops that read records from a file as rows of bytes, and the ids in them.

Shapes: K rows, P bytes of a record's Example, T ids per record.

A record is an element of TFRecordDatasetV2, which starts at a byte offset without reading what is before it, on a disk
and on gs://, and checks every record's checksums. (FixedLengthRecordDataset reads its ``header_bytes`` to skip them: 2
GB take seconds.) K records at a time are joined to one string, so that the rest of the pipeline handles blocks.
"""

import tensorflow as tf

from pipeline.data.format import records

LOCAL_BUFFER, REMOTE_BUFFER = 1 << 17, 1 << 22  # read ahead in each open shard; requests to gs:// are expensive


def read(
    file: tf.Tensor, context: int, first: tf.Tensor, count: tf.Tensor, at_once: int, *, remote: bool
) -> tf.data.Dataset:
    """Rows of one file as blocks, uint8 [K, P]; the last block may be shorter.

    Call it only inside a tf.data function (flat_map's, for example): TensorFlow 2.21 cannot serialize its source
    dataset, and so optimizes no dataset that begins with it.

    Reads ``count`` records from record ``first`` on (int64), K = ``at_once``; ``context`` is T - 1.

    Raises:
        tf.errors.DataLossError: while iterating, at a record whose checksums do not match its bytes.
        tf.errors.FailedPreconditionError: while iterating, at a file that ends too early.
    """
    source = tf.raw_ops.TFRecordDatasetV2(
        filenames=[file],
        compression_type="",
        buffer_size=REMOTE_BUFFER if remote else LOCAL_BUFFER,
        byte_offsets=[first * records.record_bytes(context)],
    )
    examples = tf.data.experimental.from_variant(source, tf.TensorSpec([], tf.string)).take(count)
    examples = examples.apply(tf.data.experimental.assert_cardinality(count))
    payload_bytes = records.record_bytes(context) - records.FRAME_BYTES - records.CHECKSUM_BYTES

    def rows_of(examples_K: tf.Tensor) -> tf.Tensor:
        return tf.reshape(tf.io.decode_raw(tf.strings.reduce_join(examples_K), tf.uint8), [-1, payload_bytes])

    return examples.batch(at_once).map(rows_of)


def ids(rows: tf.Tensor, context: int) -> tf.Tensor:
    """Returns the ids, uint16 [..., context + 1], of Examples, uint8 [..., P]."""
    raw = rows[..., len(records.example_header(context)) :]
    return tf.bitcast(tf.reshape(raw, tf.concat([tf.shape(raw)[:-1], [context + 1, 2]], axis=0)), tf.uint16)


def line_weights(tokens: tf.Tensor, end_of_text: int) -> tf.Tensor:
    """The loss mask of records packed line by line: float32 [K, T-1], 1 where the label tokens[:, 1:] counts.

    A line ends with end-of-text, and the rest of its record is end-of-text too. Predicting the first of them is part of
    the task; the others are padding. Text cannot contain the token (it is encoded as ordinary text), so the mask is a
    function of the ids and needs no separate feature.
    """
    ended = tf.cumsum(tf.cast(tf.equal(tokens[:, :-1], end_of_text), tf.int32), axis=1)
    return tf.cast(tf.equal(ended, 0), tf.float32)
