"""The endless order of training records as a tf.data graph: record_order.py defines it, tfrecord_ops.py reads.

Shapes: K rows of a block, Q slots that this host reads, P bytes of a record's Example, T context length.

How it is fast: each slot is an endless stream of its shards' rows, which tfrecord_ops.py reads K at a time. One block
of each of the Q slots makes a matrix [Q, K, P]; transposed to [K, Q], its rows are in the endless order. So TensorFlow
handles K records at a time instead of one, and the rest is slicing. All of it is ops in one graph, so it also runs on a
remote TPU host.
"""

import tensorflow as tf

from pipeline import storage
from pipeline.data.format.manifest import Manifest
from pipeline.data.reading import record_order, tfrecord_ops

BLOCK_ROWS = 4096  # of all slots together, about 8.5 MB, if the slots can give that many
SHORTEST, LONGEST = 64, 512  # rows of one slot; fewer at once cost more to handle than to read
# Slots read at the same time: on gs:// a request takes tens of milliseconds; a disk needs only the processor.
LOCAL_READERS, REMOTE_READERS = 2, 16


class RecordStream:
    """This host's slots of the endless order, as a tf.data graph."""

    def __init__(
        self, directory: str, manifest: Manifest, name: str, *, seed: int, context: int, host: int, hosts: int
    ):
        self._part, self._directory = manifest.part(name), directory
        self._order = record_order.RecordOrder(self._part, seed)
        self._record_context, self._context = manifest.record.context, context
        self._sequences_per_record = self._record_context // context
        self._host, self._hosts = host, hosts
        self._remote = storage.is_remote(directory)
        self._slots = self._order.slots // hosts  # Q
        self._block = min(max(SHORTEST, min(BLOCK_ROWS // self._slots, LONGEST)), self._order.rows_per_pass)  # K
        self._files = tf.constant([storage.join(directory, shard.file) for shard in self._part.shards])
        self._shard_records = tf.constant(self._order.shard_records, tf.int64)

    def sequences(self, first: int) -> tf.data.Dataset:
        """Blocks of sequences, uint16 [K·Q, T+1], from this host's row ``first`` on."""
        row, slot = divmod(first, self._slots)
        place = tf.range(slot, slot + self._slots, dtype=tf.int64)
        slots = tf.data.Dataset.from_tensor_slices((place % self._slots, row + place // self._slots))
        blocks = slots.interleave(
            self._slot_rows,
            cycle_length=self._slots,
            block_length=1,
            num_parallel_calls=min(self._slots, REMOTE_READERS if self._remote else LOCAL_READERS),
            deterministic=True,
        ).batch(self._slots, drop_remainder=True)

        return blocks.map(self._in_order, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

    @tf.autograph.experimental.do_not_convert
    def _in_order(self, rows_QKP: tf.Tensor, sequences_QK: tf.Tensor | None = None) -> tf.Tensor:
        """Cuts the sequences out of a block and puts them in the endless order: uint16 [K·Q, T+1]."""
        ids = tfrecord_ops.ids(rows_QKP, self._record_context)
        if sequences_QK is not None:
            columns = sequences_QK[:, :, None] * self._context + tf.range(self._context + 1)
            ids = tf.gather(ids, columns, batch_dims=2)
        return tf.reshape(tf.transpose(ids, [1, 0, 2]), [self._block * self._slots, self._context + 1])

    @tf.autograph.experimental.do_not_convert  # it would cost more than the tracing, on each host's pipeline
    def _slot_rows(self, slot: tf.Tensor, row: tf.Tensor) -> tf.data.Dataset:
        """One slot's endless stream from its ``row``-th row on: blocks (uint8 [K, P], and sequences int32 [K])."""
        rows_per_pass = self._order.rows_per_pass
        first_epoch, entered = row // rows_per_pass, row % rows_per_pass
        global_slot = slot * self._hosts + self._host

        def one_pass(epoch: tf.Tensor) -> tf.data.Dataset:
            shard = _permutation(self._order.seed, epoch, self._order.slots)[global_slot]
            count = self._shard_records[shard]
            start = tf.where(epoch == first_epoch, entered, 0)
            here = (_rotation(self._order.seed, epoch, shard, count) + start) % count
            left = rows_per_pass - start
            before_end = tf.minimum(count - here, left)
            starts = tf.stack([here, tf.zeros([], tf.int64)])
            return self._stretches(epoch, shard, starts, tf.stack([before_end, left - before_end]))

        epochs = tf.data.Dataset.counter(start=first_epoch, dtype=tf.int64)
        return epochs.flat_map(one_pass).rebatch(self._block, drop_remainder=True)

    def _stretches(
        self, epoch: tf.Tensor, shard: tf.Tensor, starts_2: tf.Tensor, lengths_2: tf.Tensor
    ) -> tf.data.Dataset:
        """Rows start … start+length of a shard, for each stretch, in blocks of up to K."""
        stretches = tf.data.Dataset.from_tensor_slices((starts_2, lengths_2)).filter(lambda _, length: length > 0)
        file = self._files[shard]

        def read(first: tf.Tensor, length: tf.Tensor) -> tf.data.Dataset:
            chunks = tfrecord_ops.read(file, self._record_context, first, length, self._block, remote=self._remote)
            if self._sequences_per_record == 1:
                return chunks.map(lambda rows_KP: (rows_KP,))

            def with_sequences(n: tf.Tensor, rows_KP: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
                row = first + n * self._block + tf.range(tf.shape(rows_KP, tf.int64)[0])
                return rows_KP, tf.cast((epoch + row) % self._sequences_per_record, tf.int32)

            return chunks.enumerate().map(with_sequences)

        return stretches.flat_map(read)


def _permutation(seed: int, epoch: tf.Tensor, slots: int) -> tf.Tensor:
    """Returns ``record_order.permutation`` of an epoch, int32 [slots]."""
    shards = tf.range(slots, dtype=tf.int64)
    return tf.argsort(_mix(seed, record_order.PERMUTATION, epoch, shards), stable=True)


def _rotation(seed: int, epoch: tf.Tensor, shard: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
    """Returns ``record_order.rotation`` of an epoch and a shard, int64."""
    return _mix(seed, record_order.ROTATION, epoch, tf.cast(shard, tf.int64)) % count


def _mix(seed: int, purpose: int, epoch: tf.Tensor, shard: tf.Tensor) -> tf.Tensor:
    """Returns ``record_order.mix`` of int64 tensors: change both, and the tests compare them."""
    state = tf.zeros([], tf.uint64)
    for value in (tf.constant(seed, tf.uint64), tf.constant(purpose, tf.uint64), epoch, shard):
        state = tf.bitwise.bitwise_xor(state, tf.cast(value, tf.uint64)) + tf.constant(record_order.GOLDEN, tf.uint64)
        for shift, factor in ((30, record_order.FIRST), (27, record_order.SECOND)):
            state = _shifted(state, shift) * tf.constant(factor, tf.uint64)
        state = _shifted(state, 31)
    return tf.cast(tf.bitwise.right_shift(state, tf.constant(1, tf.uint64)), tf.int64)


def _shifted(state: tf.Tensor, bits: int) -> tf.Tensor:
    return tf.bitwise.bitwise_xor(state, tf.bitwise.right_shift(state, tf.constant(bits, tf.uint64)))
