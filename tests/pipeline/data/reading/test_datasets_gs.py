"""Training and evaluation read over gs://, by TensorFlow's own client, what they read from a disk."""

import os

import google_crc32c
import numpy as np
import pytest

from pipeline import storage
from pipeline.data.format import records
from pipeline.data.reading import datasets, record_order
from tests.helpers.shards import write_data

RECORDS, SHARDS = 301, 4


def published(folder, directory="gs://corpus/data"):
    """Publishes the shards that ``write_data`` made."""
    for name in sorted(os.listdir(folder)):
        data = (folder / name).read_bytes()
        (folder / "copy").write_bytes(data)
        storage.publish(str(folder / "copy"), f"{directory}/{name}", google_crc32c.value(data))
    return directory


def examples(pattern):
    """The ids in the shards, read as anybody reads TFRecords of Examples."""
    import tensorflow as tf

    feature = {"tokens": tf.io.FixedLenFeature([], tf.string)}
    rows = []
    for path in sorted(tf.io.gfile.glob(pattern)):
        assert tf.io.gfile.exists(path)
        for record in tf.data.TFRecordDataset(path):
            rows.append(np.frombuffer(tf.io.parse_single_example(record, feature)["tokens"].numpy(), "<u2"))
    return np.stack(rows)


def batches(directory, manifest, steps, start=0, part="train"):
    """Batches as numpy; steps None evaluates."""
    options = {"global_batch": 8, "context": 8, "replicas": 1}
    if steps is None:
        dataset = datasets.evaluation_dataset(directory, manifest, part, **options)
    else:
        dataset = datasets.train_dataset(directory, manifest, part, seed=3, start_step=start, **options).take(steps)
    return [{name: value.copy() for name, value in batch.items()} for batch in dataset.as_numpy_iterator()]


def same(left, right):
    return len(left) == len(right) and all(
        np.array_equal(a[name], b[name]) for a, b in zip(left, right, strict=True) for name in a
    )


@pytest.fixture
def data(gcs, tmp_path):
    written = write_data(tmp_path, shards=SHARDS, count=RECORDS)
    published(tmp_path)
    return written


def test_tensorflow_reads_the_shards_as_standard_tfrecords(data, gcs, on_gcs):
    rows = on_gcs(examples, "gs://corpus/data/*.tfrecord")
    assert np.array_equal(rows, np.concatenate(data.shards))
    assert all(request.encrypted for request in gcs.requests if request.path.startswith("/corpus/"))


@pytest.mark.parametrize(("steps", "start"), [(40, 0), (3, 70)])  # a pass is 37 steps
def test_training_reads_the_same_batches_as_from_a_disk(data, on_gcs, steps, start):
    expected = batches(data.path, data.manifest, steps, start)
    assert same(on_gcs(batches, "gs://corpus/data", data.manifest, steps, start), expected)


def test_a_start_requests_its_rows_and_not_those_before(data, gcs, on_gcs):
    batch, start, places = 8, 5, record_order.RecordOrder(data.part, 3)
    size = records.record_bytes(data.manifest.record.context)
    on_gcs(batches, "gs://corpus/data", data.manifest, 1, start)
    asked = {}  # file -> first bytes of its requests
    for request in gcs.seen("GET", "^/corpus/data/train"):
        asked.setdefault(request.path.rpartition("/")[2], set()).add(int(request.headers["range"][6:].split("-")[0]))
    entered = [places.position(i)[1:] for i in range(batch * start, batch * start + SHARDS)]
    assert all(row > 0 for _, row in entered)
    for shard, row in entered:  # TensorFlow seeks by reading the byte before
        assert row * size - 1 in asked[data.part.shards[shard].file]


def test_evaluation_reads_the_same_batches_as_from_a_disk(data, on_gcs):
    assert same(on_gcs(batches, "gs://corpus/data", data.manifest, None), batches(data.path, data.manifest, None))


@pytest.mark.parametrize(("kind", "value"), [("status", 503), ("cut_reply", 0)])
def test_faults_while_training_reads_change_nothing(data, gcs, on_gcs, kind, value):
    fault = gcs.inject(kind, verb="GET", path="^/corpus/data/train", times=3, value=value)
    assert same(on_gcs(batches, "gs://corpus/data", data.manifest, 2), batches(data.path, data.manifest, 2))
    assert fault.hits == 3
