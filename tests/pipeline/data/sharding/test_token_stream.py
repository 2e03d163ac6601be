"""Streams and cuts against the plainest possible code, over random documents, segments and limits."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from pipeline.data.format.hashing import count_words, fingerprint, salted
from pipeline.data.format.settings import ShardConfig
from pipeline.data.sharding import token_stream as streams
from pipeline.data.sharding.packing import Packing, blocks, plan_blocks, rows
from pipeline.data.sharding.sorted_runs import Counts, RunWriter, read_footer
from pipeline.data.sharding.token_stream import Stream
from pipeline.errors import UserError

KEYS = st.one_of(st.integers(0, (1 << 64) - 1), st.sampled_from([0, 1 << 56, (1 << 64) - 1, 5 << 60]))
DOCUMENTS = st.lists(st.tuples(KEYS, st.integers(1, 40)), min_size=1, max_size=12)


def written(folder, groups, by_hash):
    """Writes groups of (key, length) as run files; returns their segments and the tokens in the stream's order."""
    segments, documents, value = [], [], 0
    for number, group in enumerate(groups):
        entries = []
        for key, length in group:
            entries.append((key, np.arange(value, value + length, dtype=np.uint16)))
            value += length
        documents += entries
        if by_hash:
            entries.sort(key=lambda entry: entry[0])
        path = folder / f"{number}-{value}.run"
        with open(path, "wb") as file:
            writer = RunWriter(file)
            writer.begin()
            writer.append(np.concatenate([tokens for _, tokens in entries]))
            keys = np.array([key if by_hash else 0 for key, _ in entries], np.uint64)
            lengths = np.array([len(tokens) for _, tokens in entries])
            writer.end("train", keys, np.zeros(len(keys), np.uint64), lengths)
            writer.finish({"train": Counts()}, {})
        segments += read_footer(str(path))[0]
    if by_hash:
        documents.sort(key=lambda entry: entry[0])
    return segments, np.concatenate([tokens for _, tokens in documents])


@hypothesis.settings(
    max_examples=60, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(
    groups=st.lists(DOCUMENTS, min_size=1, max_size=5),
    by_hash=st.booleans(),
    chunk=st.integers(1, 90),
    share=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_any_range_of_the_stream(tmp_path_factory, monkeypatch, groups, by_hash, chunk, share):
    monkeypatch.setattr(streams, "CHUNK_TOKENS", chunk)
    segments, expected = written(tmp_path_factory.mktemp("runs"), groups, by_hash)
    stream = Stream(segments, "hash" if by_hash else "source")
    assert stream.tokens == len(expected)
    start, stop = sorted(int(part * len(expected)) for part in share)
    for first, last in ((0, len(expected)), (start, stop)):
        chunks = list(stream.read(first, last))
        np.testing.assert_array_equal(np.concatenate([[], *chunks]), expected[first:last])
        assert all(0 < len(piece) <= chunk for piece in chunks)


class Plain:
    """A stream that is a list."""

    def __init__(self, tokens, step):
        self.tokens, self._all, self._step = len(tokens), tokens, step

    def read(self, start, stop):
        for place in range(start, stop, self._step):
            yield self._all[place : min(place + self._step, stop)]


@hypothesis.settings(max_examples=200, deadline=None)
@hypothesis.given(
    length=st.integers(0, 200),
    context=st.integers(1, 20),
    step=st.integers(1, 50),
    by_line=st.booleans(),
    shards=st.integers(1, 6),
)
def test_every_token_is_in_one_record_or_the_tail(length, context, step, by_line, shards):
    packing = Packing(context=context, kind="lines" if by_line else "contiguous")
    if by_line:
        length -= length % (context + 1)
    tokens = np.arange(length, dtype=np.uint16)
    stream, count = Plain(tokens, step), packing.records(length)
    packed = []
    for first, size in blocks(count, shards):
        if size:
            packed += np.concatenate(list(rows(stream, packing, first, size))).tolist()
    expected = [
        tokens[k : k + context + 1].tolist() for k in range(0, length, packing.stride) if k + context + 1 <= length
    ]
    assert packed == expected and len(expected) == count
    tail = packing.tail(stream)
    assert tail == tokens[count * packing.stride :].tolist()
    assert by_line or (0 < len(tail) <= context) == (length > 0)
    labels = [label for row in packed for label in row[1:]] + tail[1:]
    assert by_line or labels == tokens[1:].tolist(), "every token but the first is predicted exactly once"


def test_blocks_differ_by_one_at_most():
    assert blocks(10, 4) == [(0, 3), (3, 3), (6, 2), (8, 2)]


def test_evaluation_parts_take_fewer_shards_where_they_have_fewer_records():
    config = ShardConfig(corpus="text", name="t", shards=2, evaluation_shards=4, context=10)
    work = plan_blocks(config, Packing(context=10, kind="contiguous"), {"train": 41, "validation": 21, "test": 5})
    assert [(block.file, block.first, block.count) for block in work] == [
        ("train-00000-of-00002.tfrecord", 0, 2),
        ("train-00001-of-00002.tfrecord", 2, 2),
        ("validation-00000-of-00002.tfrecord", 0, 1),
        ("validation-00001-of-00002.tfrecord", 1, 1),
    ]
    with pytest.raises(UserError, match="the split left no document for the train part"):
        plan_blocks(config, Packing(context=10, kind="contiguous"), {"validation": 21})


@hypothesis.given(text=st.text("ab \n\té", max_size=60), cut=st.integers(0, 60))
def test_words_are_counted_across_pieces(text, cut):
    raw = text.encode()
    left, right = raw[:cut], raw[cut:]
    after_space = not left or left[-1:].isspace()
    assert count_words(raw, "whitespace") == len(raw.split())
    assert count_words(left, "whitespace") + count_words(right, "whitespace", after_space) == len(raw.split())
    assert count_words(raw, "whitespace+newline") == len(raw.split()) + raw.count(b"\n")


def test_fingerprints_add_up_in_any_order_and_notice_any_change():
    dice = np.random.default_rng(0)
    names, contents = dice.integers(0, 1 << 64, (50, 2), np.uint64), dice.integers(0, 1 << 64, 50, np.uint64)
    whole = fingerprint(names, contents)
    order = dice.permutation(50)
    assert fingerprint(names[order], contents[order]) == whole
    parts = Counts(fingerprint=fingerprint(names[:20], contents[:20]))
    parts += Counts(fingerprint=fingerprint(names[20:], contents[20:]))
    assert parts.fingerprint == whole
    assert fingerprint(names, np.roll(contents, 1)) != whole


def test_salts_give_independent_orders():
    names = np.random.default_rng(0).integers(0, 1 << 64, (2000, 2), np.uint64)
    first, second = (salted(names, seed).astype(float) for seed in (0, 1))
    for one, other in ((first[:, 0], second[:, 0]), (first[:, 0], first[:, 1]), (first[:, 1], second[:, 1])):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.08
    assert abs((first[:, 1] < 0.3 * 2**64).mean() - 0.3) < 0.04
