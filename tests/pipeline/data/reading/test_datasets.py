"""Reading keeps its promises: the endless order on any number of hosts, O(1) starts, no token lost in evaluation."""

import os

import numpy as np
import pytest
import tensorflow as tf

from pipeline.data.format import records
from pipeline.data.reading import datasets, record_order, tfrecord_ops
from pipeline.errors import UserError
from tests.helpers.shards import CONTEXT, write_data


def host(number, of):
    return tf.distribute.InputContext(num_input_pipelines=of, input_pipeline_id=number, num_replicas_in_sync=of)


def train(data, *, steps, start=0, batch, context=CONTEXT, replicas=1, seed=7, at=None, **options):
    dataset = datasets.train_dataset(
        data.path,
        data.manifest,
        seed=seed,
        global_batch=batch,
        context=context,
        start_step=start,
        replicas=replicas,
        input_context=at,
        **options,
    )
    hosts = at.num_input_pipelines if at else 1
    elements = dataset.take(steps * replicas // hosts).as_numpy_iterator()
    return [{name: value.copy() for name, value in element.items()} for element in elements]


def expected(data, first, count, context=CONTEXT, seed=7):
    """Records first … first+count-1 by the slow reference."""
    order, sequences, out = record_order.RecordOrder(data.part, seed), CONTEXT // context, []
    for i in range(first, first + count):
        _, shard, row = order.position(i)
        begin = order.sequence_of_record(i, sequences) * context
        out.append(data.shards[shard][row][begin : begin + context + 1])
    return np.stack(out)


@pytest.mark.parametrize("context", [16, 8, 2])
@pytest.mark.parametrize(("shards", "count", "batch"), [(4, 43, 6), (8, 64, 3), (3, 5, 8), (1, 7, 2), (2, 301, 5)])
def test_batches_are_those_of_the_reference_order(tmp_path, shards, count, batch, context):
    data = write_data(tmp_path, shards=shards, count=count)
    steps = 3 * count // batch + 2  # into the fourth pass
    got = train(data, steps=steps, batch=batch, context=context)
    assert np.array_equal(np.concatenate([b["index"] for b in got]), np.arange(steps * batch))
    tokens = np.concatenate([b["tokens"] for b in got])
    assert tokens.dtype == np.int32
    assert np.array_equal(tokens, expected(data, 0, steps * batch, context))


@pytest.mark.parametrize("context", [16, 4])
def test_a_start_at_any_step_gives_the_batches_of_the_unbroken_run(tmp_path, context):
    data = write_data(tmp_path, shards=4, count=43)
    unbroken = train(data, steps=40, batch=6, context=context)
    for start in (1, 2, 5, 6, 7, 13, 14, 30, 39):
        (first, *_) = train(data, steps=1, start=start, batch=6, context=context)
        assert np.array_equal(first["tokens"], unbroken[start]["tokens"]), start
        assert np.array_equal(first["index"], unbroken[start]["index"])


def test_a_start_far_into_training_reads_only_what_it_needs(tmp_path):
    """Rows before the ones to read may be garbage: they are not looked at."""
    data = write_data(tmp_path, shards=2, count=20_000)
    start, batch = 2_500, 4  # in the middle of the first pass
    order = record_order.RecordOrder(data.part, 7)
    needed = {order.position(i)[1:] for i in range(start * batch, start * batch + 4096)}  # with what is read ahead
    size = records.record_bytes(CONTEXT)
    for s, shard in enumerate(data.part.shards):
        with open(os.path.join(data.path, shard.file), "r+b") as file:
            for row in range(shard.records):
                if (s, row) not in needed:
                    file.seek(row * size)
                    file.write(bytes(size))
    (got,) = train(data, steps=1, start=start, batch=batch)
    assert np.array_equal(got["tokens"], expected(data, start * batch, batch))
    with pytest.raises(tf.errors.DataLossError):
        train(data, steps=1, start=start - 1100, batch=batch)


# S = 32 lies between the batches
@pytest.mark.parametrize(("hosts", "batch"), [(1, 80), (2, 16), (4, 80), (8, 16), (16, 80)])
def test_the_hosts_rows_together_are_the_single_hosts_batch(tmp_path, hosts, batch):
    data = write_data(tmp_path, shards=32, count=32 * 17 + 5)
    steps, start = 50, 9
    assert (start * batch) < 32 * 17 * (1 if batch == 16 else 2) < (start + steps) * batch  # over an epoch boundary
    reference = expected(data, start * batch, steps * batch)
    rows = {}
    for h in range(hosts):
        got = train(data, steps=steps, start=start, batch=batch, replicas=hosts, at=host(h, hosts))
        assert len(got) == steps
        for n, element in enumerate(got):
            assert set(element["index"]) <= set(range((start + n) * batch, (start + n + 1) * batch))
            for i, tokens in zip(element["index"], element["tokens"], strict=True):
                assert i % 32 % hosts == h, "a host reads its own slots only"
                assert i not in rows
                rows[i] = tokens
    assert np.array_equal(np.stack([rows[i] for i in range(start * batch, (start + steps) * batch)]), reference)


def test_each_replica_gets_its_rows_under_a_strategy(tmp_path, virtual_devices):
    data = write_data(tmp_path, shards=4, count=43)
    strategy = tf.distribute.MirroredStrategy(virtual_devices)

    def make(context):
        return datasets.train_dataset(
            data.path,
            data.manifest,
            seed=7,
            global_batch=8,
            context=CONTEXT,
            start_step=3,
            replicas=strategy.num_replicas_in_sync,
            input_context=context,
        )

    iterator = iter(strategy.distribute_datasets_from_function(make))
    for n in range(3, 12):
        parts = strategy.experimental_local_results(next(iterator)["tokens"])
        assert [part.shape[0] for part in parts] == [2] * 4
        assert np.array_equal(np.concatenate([p.numpy() for p in parts]), expected(data, n * 8, 8))


@pytest.mark.parametrize("context", [16, 8])
@pytest.mark.parametrize(("tail", "hosts"), [(1, 1), (5, 1), (13, 1), (12, 2), (5, 4)])
def test_evaluation_scores_every_token_once_and_in_order(tmp_path, tail, hosts, context):
    batch = 24
    data = write_data(tmp_path, shards=3, count=143, tail=tail)
    labels, indices = [], []
    for h in range(hosts):
        dataset = datasets.evaluation_dataset(
            data.path,
            data.manifest,
            "train",
            global_batch=batch,
            context=context,
            replicas=hosts * 2,
            input_context=host(h, hosts),
        )
        elements = list(dataset.as_numpy_iterator())
        steps = datasets.evaluation_steps(data.manifest, "train", global_batch=batch, context=context)
        assert len(elements) == 2 * steps, "an equal number for both replicas"
        for element in elements:
            assert element["tokens"].shape == (batch // hosts // 2, context + 1)
            assert (element["weights"][element["index"] < 0] == 0).all()
            labels.append(element["tokens"][:, 1:][element["weights"] > 0])
            indices.append(element["index"])
    assert np.array_equal(np.concatenate(labels), data.stream[1:])
    places = np.concatenate(indices)
    real = places[places >= 0]
    assert np.array_equal(real, np.arange(len(real)))
    assert (places[len(real) :] == -1).all()


def test_padding_weighs_nothing_and_the_first_end_of_text_counts():
    tokens = np.array([[5, 6, 9, 9, 9], [5, 6, 7, 8, 5], [5, 6, 7, 8, 9]], np.int32)
    expected = [[1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]]
    np.testing.assert_array_equal(tfrecord_ops.line_weights(tokens, 9), expected)


def test_records_packed_by_line_weigh_what_follows_the_first_end_of_text_nothing(tmp_path):
    data = write_data(tmp_path, shards=1, count=3, tail=1, packing="lines", end_of_text=0)
    rows = np.zeros([3, CONTEXT + 1], np.uint16)
    for n, length in enumerate((3, CONTEXT + 1, 9)):
        rows[n, :length] = 7
    (tmp_path / data.part.shards[0].file).write_bytes(records.encode(rows).tobytes())
    options = {"global_batch": 3, "context": CONTEXT, "replicas": 1}
    (element,) = datasets.evaluation_dataset(data.path, data.manifest, "train", **options).as_numpy_iterator()
    assert element["weights"].tolist() == [[1] * n + [0] * (CONTEXT - n) for n in (3, CONTEXT, 9)]
    endless = datasets.train_dataset(data.path, data.manifest, seed=0, start_step=0, **options)
    trained = next(endless.as_numpy_iterator())
    assert sorted(trained["weights"].sum(axis=1).tolist()) == [3, 9, CONTEXT]


def flip(data, shard, place, mask=1):
    path = os.path.join(data.path, data.part.shards[shard].file)
    with open(path, "r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ mask]))


@pytest.mark.parametrize("place", [3, 9, 13, 40, -2])  # length, its checksum, the Example, an id, the checksum
@pytest.mark.parametrize("evaluate", [False, True])
def test_a_flipped_bit_is_found_at_the_first_visit(tmp_path, evaluate, place):
    data = write_data(tmp_path, shards=4, count=400)
    size = records.record_bytes(CONTEXT)
    flip(data, 2, 50 * size + place % size)
    options = {"global_batch": 10, "context": CONTEXT, "replicas": 1}
    if evaluate:
        reading = datasets.evaluation_dataset(data.path, data.manifest, "train", **options)
    else:
        reading = datasets.train_dataset(data.path, data.manifest, seed=7, start_step=0, **options).take(40)
    with pytest.raises(tf.errors.DataLossError):
        list(reading.as_numpy_iterator())


@pytest.mark.parametrize("cut", [7, records.record_bytes(CONTEXT), 10 * records.record_bytes(CONTEXT)])
def test_a_truncated_shard_ends_the_run(tmp_path, cut):
    data = write_data(tmp_path, shards=2, count=100)
    path = os.path.join(data.path, data.part.shards[1].file)
    os.truncate(path, os.path.getsize(path) - cut)
    with pytest.raises((tf.errors.FailedPreconditionError, tf.errors.DataLossError)):
        train(data, steps=10, batch=10)


def test_refusals_name_the_numbers(tmp_path):
    data = write_data(tmp_path, shards=8, count=43)
    with pytest.raises(UserError, match="8 shards, fewer than the 16 hosts"):
        train(data, steps=1, batch=16, replicas=16, at=host(0, 16))
    with pytest.raises(UserError, match="context 12 does not divide .* 16"):
        train(data, steps=1, batch=16, context=12)
    with pytest.raises(UserError, match="nearest: 4 or 6"):
        datasets.evaluation_dataset(data.path, data.manifest, "train", global_batch=5, context=16, replicas=2)


def test_another_seed_gives_another_order(tmp_path):
    data = write_data(tmp_path, shards=8, count=200)
    one, two = (train(data, steps=5, batch=8, seed=seed)[0]["tokens"] for seed in (1, 2))
    assert not np.array_equal(one, two)
