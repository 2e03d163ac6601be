"""Records are what TensorFlow itself writes, and every way to damage one is found."""

import numpy as np
import pytest
import tensorflow as tf

from pipeline.data.format import records


def ids(count, context, high=65_536):
    return np.random.default_rng(context).integers(0, high, (count, context + 1)).astype(np.uint16)


def example(row):
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[row.astype("<u2").tobytes()]))
    return tf.train.Example(features=tf.train.Features(feature={"tokens": feature})).SerializeToString()


@pytest.mark.parametrize("context", [1, 8, 40, 64, 256, 1024, 8_200, 65_536])  # each length field crosses a varint byte
def test_bytes_are_those_of_tensorflows_writer(tmp_path, context):
    tokens = ids(3, context)
    with tf.io.TFRecordWriter(str(tmp_path / "a")) as writer:
        for row in tokens:
            writer.write(example(row))
    assert records.encode(tokens).tobytes() == (tmp_path / "a").read_bytes()


def test_a_record_of_1024_tokens_has_2089_bytes():
    assert records.record_bytes(1024) == 2089 == records.encode(ids(1, 1024)).size


def test_tensorflow_reads_them(tmp_path):
    tokens = ids(5, 32)
    (tmp_path / "a").write_bytes(records.encode(tokens).tobytes())
    features = {"tokens": tf.io.FixedLenFeature([], tf.string)}
    rows = [
        np.frombuffer(tf.io.parse_single_example(raw, features)["tokens"].numpy(), "<u2")
        for raw in tf.data.TFRecordDataset(str(tmp_path / "a"))
    ]
    np.testing.assert_array_equal(rows, tokens)


def test_decode_is_the_inverse_and_refuses_a_cut_file():
    tokens = ids(4, 16)
    data = records.encode(tokens).tobytes()
    np.testing.assert_array_equal(records.decode(data, 16), tokens)
    with pytest.raises(ValueError, match="not a whole number of records"):
        records.decode(data[:-1], 16)


def test_only_uint16_is_accepted():
    with pytest.raises(ValueError, match="uint16"):
        records.encode(np.zeros((1, 9), np.int32))


@pytest.mark.parametrize(
    ("offset", "kind"),
    [(0, "framing"), (9, "framing"), (14, "framing"), (30, "checksum"), (-1, "checksum")],
)
def test_every_flipped_bit_is_found_in_its_row(offset, kind):
    clean = records.encode(ids(6, 16, high=500)).tobytes()
    assert list(records.faults(clean, 16, 500)) == []
    size, damaged = records.record_bytes(16), bytearray(clean)
    damaged[4 * size + offset % size] ^= 1
    assert (kind, 4) in list(records.faults(bytes(damaged), 16, 65_536))


def test_an_id_beyond_the_vocabulary_is_found():
    tokens = ids(6, 16, high=500)
    tokens[3, 7] = 500
    assert list(records.faults(records.encode(tokens).tobytes(), 16, 500)) == [("vocabulary", 3)]
