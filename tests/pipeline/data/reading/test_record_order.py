"""The arithmetic of the endless order: fixed for ever, a permutation each pass, and its refusals."""

import pytest

from pipeline.data.format.manifest import Corpus, Manifest, Part, Record, Shard, Tokenizer
from pipeline.data.reading import record_order
from pipeline.errors import UserError


def part_of(*records: int) -> Part:
    shards = tuple(Shard(file=f"s{n}", records=r, bytes=r * 100, crc32c="0") for n, r in enumerate(records))
    return Part(
        documents=1,
        tokens=1,
        records=sum(records),
        tail=(),
        utf8_bytes=1,
        words=1,
        word_rule="whitespace",
        shards=shards,
    )


def manifest_of(part: Part, context: int = 64) -> Manifest:
    return Manifest(
        corpus=Corpus(name="c", fingerprint="f", listing="l", seed=0, order="hash"),
        tokenizer=Tokenizer(name="t", fingerprint="f", vocabulary_size=10, end_of_text=0),
        record=Record(context=context, bytes=100),
        parts={"train": part},
    )


def test_the_order_never_changes_between_versions():
    """Written down once: a change of these breaks the resumption of every run that exists."""
    assert record_order.mix(0) == 0xE220A8397B1DCDAF >> 1  # SplitMix64's first output from state 0
    assert record_order.permutation(17, 3, 8) == [1, 7, 3, 0, 6, 5, 2, 4]
    assert [record_order.rotation(17, 3, shard, 1000) for shard in range(4)] == [632, 798, 106, 60]
    assert record_order.RecordOrder(part_of(6, 6, 5, 5), seed=1).position(12_345) == (617, 1, 3)


@pytest.mark.parametrize("records", [(5, 5, 5), (6, 5, 5), (6, 6, 5), (1, 1), (7,)])
def test_a_pass_visits_no_record_twice_and_every_shard_equally(records):
    order = record_order.RecordOrder(part_of(*records), seed=3)
    for epoch in range(4):
        first = epoch * order.records_per_pass
        places = [order.position(i) for i in range(first, first + order.records_per_pass)]
        assert {place.epoch for place in places} == {epoch}
        assert len(set(places)) == len(places) == min(records) * len(records)
        for slot in range(len(records)):
            assert len({place.shard for place in places[slot :: len(records)]}) == 1


def test_passes_differ_in_permutation_and_rotation_and_leave_out_other_records():
    order = record_order.RecordOrder(part_of(*[9] * 4, *[8] * 4), seed=0)
    passes = [
        [order.position(e * order.records_per_pass + i)[1:] for i in range(order.records_per_pass)] for e in range(12)
    ]
    assert len({tuple(p) for p in passes}) == 12
    left_out = [{(s, r) for s in range(4) for r in range(9)} - set(p) for p in passes]
    assert all(len(out) == 4 for out in left_out)
    assert len(set.union(*left_out)) > 12


def test_all_parts_of_every_record_come_in_as_many_passes_as_there_are_parts():
    order = record_order.RecordOrder(part_of(5, 5), seed=9)
    seen = [(order.position(i)[1:], order.sequence_of_record(i, 4)) for i in range(4 * order.records_per_pass)]
    assert len(set(seen)) == 4 * 10


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"hosts": 8, "replicas": 8}, "4 shards, fewer than the 8 hosts"),
        ({"hosts": 3, "replicas": 3, "global_batch": 3}, "3 hosts do not divide the 4 shards"),
        ({"global_batch": 10}, "nearest: 8 or 12"),
        ({"global_batch": 1}, "nearest: 4"),
        ({"context": 24}, "context 24 does not divide .* nearest: 16 or 32"),
        ({"context": 128}, "context 128 does not divide the records' context of 64 tokens; nearest: 32 or 64"),
        ({"replicas": 5, "global_batch": 10}, "not equally many on each of 2 hosts"),
    ],
)
def test_what_does_not_divide_is_refused_with_the_nearest_choices(change, says):
    fitting = {"hosts": 2, "replicas": 4, "global_batch": 8, "context": 32}
    manifest = manifest_of(part_of(5, 5, 5, 4))
    record_order.check_split(manifest, "train", **fitting)
    with pytest.raises(UserError, match=says):
        record_order.check_split(manifest, "train", **(fitting | change))


@pytest.mark.parametrize("records", [(1, 0), (9, 5)])
def test_shards_without_records_or_unbalanced_ones_are_refused(records):
    part = part_of(*records)
    with pytest.raises(UserError, match="part 'train'"):
        record_order.check_split(manifest_of(part), "train", hosts=1, replicas=1, global_batch=1, context=64)
