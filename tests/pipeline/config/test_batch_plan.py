"""Batch arithmetic: accumulation follows, and what does not divide is refused with the nearest that do."""

import pytest

from pipeline.config import batch_plan
from pipeline.errors import UserError


def test_accumulation_follows_from_global_batch_and_microbatch():
    plan = batch_plan.plan(global_batch=512, replicas=8, microbatch=4, context=1024)
    assert (plan.accumulation, plan.per_replica, plan.tokens_per_step) == (16, 64, 524_288)


@pytest.mark.parametrize(
    ("global_batch", "replicas", "microbatch", "nearest"),
    [(500, 128, 4, "train.global_batch = 512"), (7, 2, 2, "train.global_batch = 4 or 8"), (3, 4, 1, "= 4")],
)
def test_what_does_not_divide_names_the_nearest(global_batch, replicas, microbatch, nearest):
    with pytest.raises(UserError, match="does not divide") as refusal:
        batch_plan.plan(global_batch=global_batch, replicas=replicas, microbatch=microbatch, context=8)
    assert nearest in str(refusal.value)


def test_the_nearest_of_a_huge_batch_is_found_at_once():
    with pytest.raises(UserError, match="train.microbatch = 3 or 6"):
        batch_plan.plan(global_batch=2**31 - 2, replicas=1, microbatch=4, context=8)


def test_divisors_come_in_order():
    assert [batch_plan.divisors(number) for number in (1, 7, 36)] == [[1], [1, 7], [1, 2, 3, 4, 6, 9, 12, 18, 36]]


def test_every_nearest_choice_divides():
    with pytest.raises(UserError) as refusal:
        batch_plan.plan(global_batch=12, replicas=2, microbatch=4, context=8)
    assert "train.global_batch = 8 or 16, or train.microbatch = 3 or 6" in str(refusal.value)
    for microbatch in (3, 6):
        batch_plan.plan(global_batch=12, replicas=2, microbatch=microbatch, context=8)
