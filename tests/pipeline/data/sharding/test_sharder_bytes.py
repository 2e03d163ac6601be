"""The sharder gives the bytes of a ten-line slow one, whatever the workers and the limits."""

import hashlib

import numpy as np
import pytest
import tensorflow as tf

from pipeline.data.format import manifest as manifests
from pipeline.data.format import records
from pipeline.data.format.tokenizer import load
from tests.helpers.sharding import REAL_LIMITS


@pytest.fixture(scope="module")
def small(small_tokenizer):
    return load(small_tokenizer)


def documents_of(folder):
    documents = []
    for path in sorted(folder.rglob("*.txt"), key=lambda path: path.relative_to(folder).as_posix()):
        if path.name not in ("blank.txt", "nul.txt", "latin.txt"):
            documents.append((path.relative_to(folder).as_posix(), path.read_text()))
    return documents


def key_of(identity, seed):
    """The salted hash of an id, in plain arithmetic."""
    name, salt = (
        int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest()[:8], "little")
        for text in (identity, str(seed))
    )
    key = name ^ salt
    for multiplier in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        key = (key ^ key >> 33) * multiplier % (1 << 64)
    return key ^ key >> 33


def slow_sharder(documents, small, directory, part, shards, context, overlap=1):
    """Ten lines that say what the bytes are; TensorFlow frames the records."""
    stream = [token for _, text in documents for token in [*small.encode(text), small.end_of_text]]
    starts = range(0, len(stream) - context, context + 1 - overlap)
    rows = [np.array(stream[start : start + context + 1], "<u2").tobytes() for start in starts]
    for s, block in enumerate(np.array_split(np.arange(len(rows)), shards)):
        with tf.io.TFRecordWriter(str(directory / f"{part}-{s:05d}-of-{shards:05d}.tfrecord")) as writer:
            for row in block:
                feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[rows[row]]))
                features = tf.train.Features(feature={"tokens": feature})
                writer.write(tf.train.Example(features=features).SerializeToString())
    return stream, stream[len(rows) * context :]


def test_the_real_vocabulary_and_the_real_limits(tmp_path, source, shard):
    small, large = tmp_path / "small", tmp_path / "large"
    manifest = shard(source, large, tokenizer="gpt2", limits=REAL_LIMITS)
    assert manifest.tokenizer.end_of_text == 50_256
    slow_sharder(sorted_by_hash(source, 0), load("gpt2"), make(small), "train", 3, 16)
    for file in small.iterdir():
        assert file.read_bytes() == (large / file.name).read_bytes()


def make(directory):
    directory.mkdir()
    return directory


def sorted_by_hash(source, seed):
    return sorted(documents_of(source), key=lambda document: key_of(document[0], seed))


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("order", ["hash", "source"])
def test_a_slow_sharder_gives_the_same_bytes(tmp_path, source, small, shard, digests, order, seed):
    documents = sorted_by_hash(source, seed) if order == "hash" else documents_of(source)
    stream, tail = slow_sharder(documents, small, make(tmp_path / "slow"), "train", 3, 16)
    manifest = shard(source, tmp_path / "fast", order=order, seed=seed)
    fast = digests(tmp_path / "fast")
    assert {name: fast[name] for name in fast if name.endswith(".tfrecord")} == digests(tmp_path / "slow")
    part = manifest.parts["train"]
    assert (part.tokens, list(part.tail)) == (len(stream), tail)
    assert part.tokens == part.records * 16 + len(part.tail)
    assert part.dropped == {"NUL": 1, "empty": 1, "undecodable": 1}
    assert part.utf8_bytes == sum(len(text.encode()) for _, text in documents)
    assert part.words == sum(len(text.encode().split()) for _, text in documents)
    assert part.documents == len(documents)


def test_bytes_do_not_depend_on_workers_limits_or_place(tmp_path, source, shard, digests):
    expected = None
    for name, workers, limits in (("one", 1, None), ("two", 2, REAL_LIMITS), ("seven", 7, None)):
        shard(source, tmp_path / name, workers=workers, limits=limits)
        expected = expected or digests(tmp_path / name)
        assert digests(tmp_path / name) == expected
    (tmp_path / "copy").symlink_to(source)
    shard(tmp_path / "copy", tmp_path / "moved", workers=2)
    assert digests(tmp_path / "moved") == expected


def test_another_seed_gives_other_bytes_and_the_same_tokens(tmp_path, source, shard):
    first, second = (shard(source, tmp_path / str(seed), seed=seed) for seed in (0, 1))
    assert first.parts["train"].shards[0].crc32c != second.parts["train"].shards[0].crc32c
    assert first.parts["train"].tokens == second.parts["train"].tokens
    assert first.corpus.fingerprint == second.corpus.fingerprint


def test_the_split_is_disjoint_complete_and_independent_of_the_order(tmp_path, source, small, shard):
    def texts(directory, part):
        manifest = manifests.load(str(directory))
        described, stream = manifest.parts[part], []
        for file in described.shards:
            rows = records.decode((directory / file.file).read_bytes(), 16)
            stream += rows[:, :16].reshape(-1).tolist()
        text = small.decode([*stream, *described.tail])
        return [piece for piece in text.replace("<|endoftext|>", "\0").split("\0") if piece]

    shard(source, tmp_path / "a", validation_fraction=0.3)
    shard(source, tmp_path / "b", validation_fraction=0.3, order="source")
    everything = [text.replace("<|endoftext|>", "\0") for _, text in documents_of(source)]
    pieces = sorted(piece for text in everything for piece in text.split("\0") if piece)
    for part in ("train", "validation"):
        assert sorted(texts(tmp_path / "a", part)) == sorted(texts(tmp_path / "b", part))
    assert sorted(texts(tmp_path / "a", "train") + texts(tmp_path / "a", "validation")) == pieces
    held_out = manifests.load(str(tmp_path / "a")).parts["validation"].documents
    assert 5 < held_out < 35


def test_texts_in_both_parts_are_noted(tmp_path, shard):
    (tmp_path / "source").mkdir()
    for number in range(40):
        (tmp_path / "source" / f"{number}.txt").write_text("the very same text " * 5)
    manifest = shard(tmp_path / "source", tmp_path / "out", validation_fraction=0.5)
    assert manifest.corpus.notes == ("1 of 1 texts of validation are in the train part too",)


def test_shards_are_balanced_contiguous_and_committed_whole(tmp_path, source, shard):
    manifest = shard(source, tmp_path / "out", shards=7)
    sizes = [file.records for file in manifest.parts["train"].shards]
    assert max(sizes) - min(sizes) <= 1 and sum(sizes) == manifest.parts["train"].records
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {file.file for file in manifest.parts["train"].shards} | {"manifest.json", "tokenizer.json"}
    import google_crc32c

    for file in manifest.parts["train"].shards:
        data = (tmp_path / "out" / file.file).read_bytes()
        assert (len(data), f"{google_crc32c.value(data):08x}") == (file.bytes, file.crc32c)


def test_lines_become_padded_records(tmp_path, small, shard):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a.txt").write_text("one line\n\n" + "long " * 40 + "\r\nlast")
    manifest = shard(tmp_path / "source", tmp_path / "out", packing="lines", shards=1)
    part = manifest.parts["train"]
    rows = records.decode((tmp_path / "out" / part.shards[0].file).read_bytes(), 16)
    expected = []
    for line in ("one line", "long " * 40, "last"):
        ids = [*small.encode(line), small.end_of_text]
        expected.append((ids + [small.end_of_text] * 17)[:17])
    np.testing.assert_array_equal(rows, expected)
    assert (part.records, part.tokens, part.tail, manifest.record.packing) == (3, 51, (), "lines")
    one, long, last = (len(small.encode(line)) + 1 for line in ("one line", "long " * 40, "last"))
    assert (part.truncated_tokens, part.padding_tokens) == (long - 17, 34 - one - last)
    assert (np.cumsum(rows[:, :-1] == small.end_of_text, axis=1) == 0).sum() == (one - 1) + 16 + (last - 1)


def test_lines_of_many_documents_do_not_depend_on_limits(tmp_path, source, shard, digests):
    shard(source, tmp_path / "a", packing="lines", workers=1)
    shard(source, tmp_path / "b", packing="lines", workers=2, limits=REAL_LIMITS)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
