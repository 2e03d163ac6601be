"""Batches for training and evaluation: what each replica gets at each step, on one of several hosts.

Shapes: B rows of one replica's batch, T context length, C the records' context, K rows of a block, R bytes per record.

Training reads the endless order (record_order.py defines it, record_stream.py reads it); evaluation reads a part once,
in the corpus's order. Both work on gs:// as on a disk, and never call Python while reading, so that a remote TPU host
can run them.
"""

from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from pipeline import storage
from pipeline.data.format.manifest import Manifest, Part
from pipeline.data.reading import record_order, tfrecord_ops
from pipeline.data.reading.record_stream import RecordStream

EVALUATION_BLOCK = 64  # records read at once

Batch = Mapping[str, tf.Tensor]


def train_dataset(
    directory: str,
    manifest: Manifest,
    part: str = "train",
    *,
    seed: int,
    global_batch: int,
    context: int,
    start_step: int,
    replicas: int,
    input_context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """Returns the batches of the endless order from step ``start_step`` on, without end.

    Args:
        directory: of the manifest and the shards, local or gs://.
        manifest: the data set.
        part: name of the part.
        seed: of the order.
        global_batch: sequences per step over all replicas.
        context: T, tokens per sequence; divides C.
        start_step: step of the first batch; nothing before it is read.
        replicas: replicas over all hosts. An element feeds one replica; each host's replicas take turns.
        input_context: which host this is; None is the only one.

    Returns:
        A dataset of ``tokens`` int32 [B, T+1] and ``index`` int64 [B], the places in the endless order, with
        B = global_batch / replicas. Records packed line by line also give ``weights`` float32 [B, T].
        Its iterator raises DataLossError at a damaged record, FailedPreconditionError at a file that is too short.

    Raises:
        UserError: as ``record_order.check_split``.
    """
    host, hosts = _host(input_context)
    record_order.check_split(manifest, part, hosts=hosts, replicas=replicas, global_batch=global_batch, context=context)
    stream = RecordStream(directory, manifest, part, seed=seed, context=context, host=host, hosts=hosts)
    first = start_step * (global_batch // hosts)  # of this host's rows, which are numbered from 0
    share = global_batch // replicas
    weighted = manifest.record.packing == "lines"
    sequences = stream.sequences(first).rebatch(share, drop_remainder=True)

    @tf.autograph.experimental.do_not_convert
    def batch(n: tf.Tensor, ids: tf.Tensor) -> Batch:
        place = first + n * share + tf.range(share, dtype=tf.int64)
        tokens = tf.cast(ids, tf.int32)
        element = {"tokens": tokens, "index": place * hosts + host}
        if weighted:
            element["weights"] = tfrecord_ops.line_weights(tokens, manifest.tokenizer.end_of_text)
        return element

    batches = sequences.enumerate().map(batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return batches.prefetch(tf.data.AUTOTUNE).with_options(_options())


def evaluation_dataset(
    directory: str,
    manifest: Manifest,
    part: str = "validation",
    *,
    global_batch: int,
    context: int,
    replicas: int,
    input_context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """Returns the whole part once, in the corpus's order, including the tail that fills no record.

    Args: as for ``train_dataset``.

    Returns:
        A dataset of ``tokens`` int32 [B, T+1], ``index`` int64 [B] and ``weights`` float32 [B, T], B = global_batch /
        replicas. Over all hosts, every token of the part but the first is a label with weight 1 exactly once; rows that
        pad the last batches have index -1 and weights 0. Every replica gets the same number of elements. Host h reads
        the h-th contiguous share.

    Raises:
        UserError: the replicas do not divide the batch, or the context does not divide C.
    """
    host, hosts = _host(input_context)
    record_order.check_batch(global_batch, replicas, hosts)
    record_order.check_context(manifest.record.context, context)
    described = manifest.part(part)
    per_record = manifest.record.context // context  # sequences
    tail = _tail_sequences(described.tail, context)
    in_records = described.records * per_record
    total = in_records + len(tail["tokens"])
    steps = evaluation_steps(manifest, part, global_batch=global_batch, context=context)
    share = steps * global_batch // hosts  # sequences of this host, including padding
    start = host * share

    first_record = min(start, in_records) // per_record
    last_record = min(-(-(start + share) // per_record), described.records)
    blocks = _ordered_rows(directory, manifest, described, first_record, last_record)
    split = _split_records(manifest, context)
    sequences = blocks.map(split, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).unbatch()
    padding = {name: np.zeros((1, *value.shape[1:]), value.dtype) for name, value in tail.items()}
    sequences = sequences.concatenate(tf.data.Dataset.from_tensor_slices(tail))
    sequences = sequences.concatenate(tf.data.Dataset.from_tensor_slices(padding).repeat())
    another_hosts = min(start, total) - first_record * per_record  # in this host's first record, or of the tail
    sequences = sequences.skip(another_hosts).take(share)

    @tf.autograph.experimental.do_not_convert
    def numbered(n: tf.Tensor, sequence: Batch) -> Batch:
        place = start + n
        return {**sequence, "index": tf.where(place < total, place, -1)}

    batches = sequences.enumerate().map(numbered).batch(global_batch // replicas, drop_remainder=True)
    return batches.prefetch(tf.data.AUTOTUNE).with_options(_options())


def evaluation_steps(manifest: Manifest, part: str = "validation", *, global_batch: int, context: int) -> int:
    """Returns how many batches of all replicas ``evaluation_dataset`` has.

    Take exactly this many, never one more. On a remote host, asking for more causes an error that TensorFlow prints
    when it deletes the iterator's executor, although it has been handled.
    """
    described = manifest.part(part)
    in_records = described.records * (manifest.record.context // context)
    return -(-(in_records + _tail_count(described.tail, context)) // global_batch)


def _split_records(manifest: Manifest, T: int) -> Callable[[tf.Tensor], Batch]:
    """Returns a cutter of a block's records into C/T sequences each, with their weights."""
    C = manifest.record.context

    @tf.autograph.experimental.do_not_convert
    def split(rows_KP: tf.Tensor) -> Batch:
        tokens = tf.cast(tfrecord_ops.ids(rows_KP, C), tf.int32)
        weights = tf.ones_like(tokens[:, 1:], tf.float32)
        if manifest.record.packing == "lines":
            weights = tfrecord_ops.line_weights(tokens, manifest.tokenizer.end_of_text)
        tokens = tf.gather(tokens, tf.range(C // T)[:, None] * T + tf.range(T + 1), axis=1)
        return {"tokens": tf.reshape(tokens, [-1, T + 1]), "weights": tf.reshape(weights, [-1, T])}

    return split


def _ordered_rows(directory: str, manifest: Manifest, part: Part, first: int, last: int) -> tf.data.Dataset:
    """Records first … last-1 of a part in the corpus's order: uint8 [K, P]."""
    stretches = []  # file, first row, rows
    begin = 0
    for shard in part.shards:
        low, high = max(first, begin) - begin, min(last, begin + shard.records) - begin
        if high > low:
            stretches.append((storage.join(directory, shard.file), low, high - low))
        begin += shard.records
    files, lows, counts = (list(column) for column in zip(*stretches, strict=True)) if stretches else ([], [], [])
    dataset = tf.data.Dataset.from_tensor_slices(
        (tf.constant(files, tf.string), tf.constant(lows, tf.int64), tf.constant(counts, tf.int64))
    )
    context, remote = manifest.record.context, storage.is_remote(directory)
    return dataset.flat_map(
        lambda file, low, count: tfrecord_ops.read(file, context, low, count, EVALUATION_BLOCK, remote=remote)
    )


def _tail_sequences(tail: tuple[int, ...], context: int) -> dict[str, np.ndarray]:
    """Cuts what fills no record into sequences of T labels, the last one padded with weight 0.

    The first id of the tail is the last one of the last record, so it is not a label here.
    """
    labels, count = max(0, len(tail) - 1), _tail_count(tail, context)
    padded = np.zeros([count * context + 1], np.int32)
    padded[: len(tail)] = tail[: len(padded)]
    columns = np.arange(count)[:, None] * context + np.arange(context + 1)
    weights = (np.arange(count * context) < labels).astype(np.float32)
    return {"tokens": padded[columns], "weights": weights.reshape(count, context)}


def _tail_count(tail: tuple[int, ...], context: int) -> int:
    return -(-max(0, len(tail) - 1) // context)


def _host(input_context: tf.distribute.InputContext | None) -> tuple[int, int]:
    if input_context is None:
        return 0, 1
    return input_context.input_pipeline_id, input_context.num_input_pipelines


def _options() -> tf.data.Options:
    options = tf.data.Options()
    options.deterministic = True
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return options
