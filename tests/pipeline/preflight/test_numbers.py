"""What a pod's step computes: the program that the preflight lowers, run by XLA on one virtual CPU for each core.

Nothing in it is the TPU's alone, so it runs as it stands. It is compared with the float32 step of one device, from the
same weights on the same 20 batches. What only a TPU can show: its own rounding of bfloat16 products and of elementary
functions, and that tf.distribute's all-reduce there is the sum that XLA's is here.
"""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from pipeline.devices.wheels import installed
from pipeline.preflight import lowering
from pipeline.training import step as steps
from tests.helpers.pod_numbers import (
    CLIP_NORM,
    differences,
    lowered,
    lowered_evaluation,
    of_any_replica,
    on_a_pod,
    on_one_device,
    tokens_of,
)
from tests.helpers.steps import ALGPT2, CONTEXT, GLOBAL_BATCH, GPT2, OPTIMIZERS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(installed("jax") is None, reason="requirements-preflight.txt is not installed"),
]

# At a rate of 1e-2, rounding decides where 20 steps lead. AdamW's slots are split where there are replicas.
ADAFACTOR = dataclasses.replace(OPTIMIZERS["adafactor"], learning_rate=2e-3)
ADAMW = dataclasses.replace(OPTIMIZERS["adamw"], slots="sharded")
# float32 has an error of 6e-8 in each operation. A sum of gradients in another order adds up some of them, and an
# optimizer's division by their own size enlarges those of gradients near zero. Seen, with three seeds of the first
# weights: 1e-6, 2e-6, 1.9e-5, 1e-6.
FLOAT32 = {"loss": 1e-5, "gradient": 1e-5, "weights": 1e-4, "slots": 1e-5}
# bfloat16 has one of 2**-9: 0.01 of a token's 4.6 nats, and a tenth of it in the mean of 128 tokens. A gradient has
# that of a dozen operations in a row, and so have the slots and the weights that follow it. Seen: 7e-4, 0.02, 0.026,
# 0.01.
BFLOAT16 = {"loss": 1e-3, "gradient": 0.04, "weights": 0.04, "slots": 0.04}


@pytest.fixture(scope="module")
def by_adafactor():
    """The numbers of the float32 step on one device, for two tests."""
    return on_one_device("adafactor", ADAFACTOR)


def exceeded(got, want, bounds):
    """Returns those differences that are over their bounds."""
    found = differences(got, want)
    return {name: value for name, value in found.items() if not value <= bounds[name]}


def check(pods, want, precisions):
    for pod, precision in zip(pods, precisions, strict=True):
        assert not exceeded(pod, want, FLOAT32 if precision == "float32" else BFLOAT16), precision
        assert not pod.metrics["skipped"].any()


def test_adafactor_on_1_2_and_8_cores(by_adafactor, monkeypatch):
    want = by_adafactor
    assert want.metrics["loss"][-1] < want.metrics["loss"][0] - 0.5, "it must have learnt something"
    assert len(set(want.metrics["grad_norm"] > CLIP_NORM)) == 2, "clipping must be at work, and not always"
    runs = [(8, "float32"), (1, "bfloat16"), (2, "bfloat16"), (8, "bfloat16")]
    programs = [lowered(monkeypatch, "adafactor", ADAFACTOR, cores, dtype=dtype) for cores, dtype in runs]
    exact, *pods = map(of_any_replica, on_a_pod(programs))
    check([exact, *pods], want, [dtype for _, dtype in runs])
    # More cores only change the order in which float32 gradients are added, which is all that the first step shows;
    # from the second on, a weight that differs in its last bit may be rounded to another bfloat16.
    for pod in pods[1:]:
        for name in ("loss", "grad_norm"):
            assert pod.metrics[name][0] == pytest.approx(pods[0].metrics[name][0], rel=1e-6)
        assert not exceeded(pod, pods[0], {name: bound / 2 for name, bound in BFLOAT16.items()})


def test_adamw_with_split_slots_and_rematerialisation(monkeypatch):
    model = dataclasses.replace(GPT2, layers=2)
    want = on_one_device("adamw", ADAMW, model)
    runs = [(2, "float32"), (8, "bfloat16")]
    remat = dataclasses.replace(model, remat="attention")
    programs = [lowered(monkeypatch, "adamw", ADAMW, cores, remat, dtype=dtype) for cores, dtype in runs]
    check(map(of_any_replica, on_a_pod(programs)), want, [dtype for _, dtype in runs])


def test_algpt2_with_dropout_and_rematerialisation(monkeypatch):
    """A mask follows from the seed and from the example's index: it is the same on any number of cores."""
    model = dataclasses.replace(ALGPT2, dropout=0.1)
    want = on_one_device("adafactor", ADAFACTOR, model)
    runs = [(8, "float32"), (2, "bfloat16")]
    remat = dataclasses.replace(model, remat="full")
    programs = [lowered(monkeypatch, "adafactor", ADAFACTOR, cores, remat, dtype=dtype) for cores, dtype in runs]
    check(map(of_any_replica, on_a_pod(programs)), want, [dtype for _, dtype in runs])


def test_the_evaluation_on_8_cores(by_adafactor, monkeypatch):
    """A batch in two halves, by tokens' weights, has the loss of the training step that begins with its weights."""
    some = (np.arange(GLOBAL_BATCH * CONTEXT) % 3 == 0).reshape(GLOBAL_BATCH, CONTEXT).astype(np.float32)
    batches = [[tokens_of(0), weights] for weights in (some, 1 - some)]
    (pod,) = map(of_any_replica, on_a_pod([lowered_evaluation(monkeypatch, 8, batches)]))
    assert pod.metrics["weight"].tolist() == [some.sum(), some.size - some.sum()]
    loss = pod.metrics["nll"].sum() / some.size
    assert abs(loss - by_adafactor.metrics["loss"][0]) < BFLOAT16["loss"]
    assert 0.25 < pod.metrics["nll"][0] / pod.metrics["nll"].sum() < 0.42


def drop_a_microbatch(monkeypatch):
    accumulate = steps._Step.accumulate

    def accumulate_fewer(self, batch):
        plan = self.plan
        fewer = dataclasses.replace(plan, accumulation=plan.accumulation - 1)
        rest = {name: rows[: fewer.per_replica] for name, rows in batch.items()}
        return accumulate(dataclasses.replace(self, plan=fewer), rest)

    monkeypatch.setattr(steps._Step, "accumulate", accumulate_fewer)


def change_all_reduce(monkeypatch, change):
    """Has each gradient, but not the loss and the count of tokens, all-reduced as ``change`` does."""
    all_reduce_over = lowering.all_reduce_over

    def changed(replicas):
        all_reduce = all_reduce_over(replicas)
        return lambda tensors: [*all_reduce(tensors[:2]), *change(all_reduce, tensors[2:], replicas)]

    monkeypatch.setattr(lowering, "all_reduce_over", changed)


def average_twice(monkeypatch):
    change_all_reduce(monkeypatch, lambda add, tensors, replicas: [total / replicas for total in add(tensors)])


def add_in_bfloat16(monkeypatch):
    def add_rounded(add, tensors, _):
        rounded = add([tf.cast(tensor, tf.bfloat16) for tensor in tensors])
        return [tf.cast(total, tf.float32) for total in rounded]

    change_all_reduce(monkeypatch, add_rounded)


def test_errors_are_over_the_bounds(by_adafactor, monkeypatch):
    """The last is within bfloat16's own errors: the float32 program is what finds it."""
    runs = [(drop_a_microbatch, "bfloat16"), (average_twice, "bfloat16"), (add_in_bfloat16, "float32")]
    programs = []
    for error, dtype in runs:
        with monkeypatch.context() as patch:
            error(patch)
            programs.append(lowered(patch, "adafactor", ADAFACTOR, 2, microbatch=4, dtype=dtype))
    dropped, averaged, rounded = map(of_any_replica, on_a_pod(programs))
    assert set(BFLOAT16) == set(exceeded(dropped, by_adafactor, BFLOAT16))
    assert set(BFLOAT16) == set(exceeded(averaged, by_adafactor, BFLOAT16))
    assert set(FLOAT32) == set(exceeded(rounded, by_adafactor, FLOAT32))
    assert not exceeded(rounded, by_adafactor, BFLOAT16)
