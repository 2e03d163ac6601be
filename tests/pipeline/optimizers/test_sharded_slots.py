"""AdamW and Muon with slots split over the replicas make the same updates and checkpoints as with whole slots."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from models.config import ALGPT2Config, GPT2Config
from pipeline.config.train_config import RESUMABLE_CHANGES
from pipeline.errors import UserError
from pipeline.optimizers import sharded_slots
from pipeline.optimizers.build import build
from pipeline.optimizers.config import AdafactorConfig, AdamWConfig, MuonConfig, SGDConfig, block_shape
from pipeline.optimizers.schedules import Schedule
from pipeline.runs.run_directory import RunDirectory, as_json
from tests.helpers.steps import CONTEXT, SAVED, STEPS, VOCABULARY, mirrored, train

SIZE = {"heads": 2, "width": 30, "context": CONTEXT, "vocabulary_size": VOCABULARY}  # 4 do not divide 30 rows
MODELS = {"gpt2": GPT2Config(layers=1, **SIZE), "algpt2": ALGPT2Config(layers=2, embedding=18, **SIZE)}
WHOLE = AdamWConfig(learning_rate=1e-3, epsilon=1e-4, weight_decay=0.1)
SPLIT = dataclasses.replace(WHOLE, slots="sharded")
MUON = MuonConfig(learning_rate=0.01, adamw_learning_rate=1e-3, epsilon=1e-4, weight_decay=0.1)
SPLIT_MUON = dataclasses.replace(MUON, slots="sharded")
# Float32 rounding of a few steps; an update is of the size of 1e-3. The sharded update itself rounds like the whole
# one, but XLA may fuse what is around it otherwise.
ROUNDING = 1e-7


def check_equal(got, want, atol, rtol=1e-5):
    """Compares what ``train`` returns; of the metrics, those of the steps that both have taken."""
    history, *states = got
    for metrics, wanted in zip(history, want[0][-len(history) :], strict=True):
        for name, value in wanted.items():
            np.testing.assert_allclose(metrics[name], value, rtol=rtol, err_msg=name)
    for state, wanted in zip(states, want[1:], strict=True):
        assert state.keys() == wanted.keys()
        for name, value in wanted.items():
            assert state[name].shape == value.shape, name
            np.testing.assert_allclose(state[name], value, rtol=0, atol=atol, err_msg=name)


@pytest.fixture(scope="module")
def on_four(virtual_devices, tmp_path_factory):
    """GPT-2 with split slots on four replicas: what ``train`` returns, and the folder of its checkpoint.

    The third step, the one after the checkpoint, is skipped.
    """
    folder = tmp_path_factory.mktemp("on_four")
    return train(MODELS["gpt2"], SPLIT, virtual_devices, 1, poison=(2,), folder=folder), folder


@pytest.mark.parametrize("shape", [(30, 5), (3, 4), (7,), (8, 2, 3)])
@pytest.mark.parametrize("replicas", [2, 4, 5])
def test_the_replicas_share_the_sum_of_squares(shape, replicas):
    """Blocks that end beyond the last row count each row once; a replica without rows counts none."""
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    shares = [
        float(sharded_slots.own_sum_of_squares(tf.constant(x), tf.constant(r), replicas)) for r in range(replicas)
    ]
    assert sum(shares) == pytest.approx(np.square(x).sum(), rel=1e-6)
    rows = block_shape(shape, replicas)[0]
    for replica, share in enumerate(shares):
        assert share == pytest.approx(np.square(x[replica * rows : (replica + 1) * rows]).sum(), rel=1e-6)


def test_adafactors_scale_is_that_of_one_replica(virtual_devices):
    """Four replicas sum the squares of their rows of the weights; the updates are those of one that sums all."""
    config = AdafactorConfig(learning_rate=0.05, min_dim_size_to_factor=16)
    got, want = train(MODELS["gpt2"], config, virtual_devices, 1), train(MODELS["gpt2"], config, virtual_devices[:1], 4)
    check_equal(got, want, 1e-6)


def test_weights_slots_and_metrics_are_those_of_whole_slots(virtual_devices):
    devices = virtual_devices[:2]
    got, want = (train(MODELS["algpt2"], config, devices, 2) for config in (SPLIT, WHOLE))
    assert all(metrics["grad_norm"] > 0.05 and not metrics["skipped"] for metrics in got[0]), "clipping is at work"
    check_equal(got, want, ROUNDING)


def test_a_non_finite_step_is_skipped_as_with_whole_slots(virtual_devices, on_four):
    got, want = on_four[0], train(MODELS["gpt2"], WHOLE, virtual_devices, 1, poison=(2,))
    assert [metrics["skipped"] for metrics in got[0]] == [0, 0, 1, 0, 0]
    assert all(metrics["skipped"] or metrics["grad_norm"] > 0.05 for metrics in got[0]), "clipping is at work"
    assert got[2]["optimizer/adamw/iteration"] == STEPS - 1
    check_equal(got, want, ROUNDING)


def test_muons_matrices_are_those_of_whole_slots(virtual_devices, tmp_path):
    """Four matrices of 30 × 30 and two of 30 × 120: two of the four replicas have none of the latter.

    The third step is skipped, and a checkpoint continues with whole slots on one replica, and back on two.
    """
    want = train(MODELS["gpt2"], MUON, virtual_devices[:1], 4, poison=(2,), folder=tmp_path / "whole")
    got = train(MODELS["gpt2"], SPLIT_MUON, virtual_devices, 1, poison=(2,), folder=tmp_path / "split")
    assert [metrics["skipped"] for metrics in got[0]] == [0, 0, 1, 0, 0]
    # Gradients of other spreads add up in another order; Muon enlarges what is small in a matrix.
    check_equal(got, want, atol=1e-5, rtol=2e-5)
    for folder, config, replicas in (("split", MUON, 1), ("whole", SPLIT_MUON, 2)):
        devices = virtual_devices[:replicas]
        again = train(MODELS["gpt2"], config, devices, 2, poison=(2,), folder=tmp_path / folder, start=SAVED)
        check_equal(again, want, atol=1e-5, rtol=2e-5)
    names = [tf.train.list_variables(f"{tmp_path}/{name}/step-0000000{SAVED}/state") for name in ("split", "whole")]
    assert names[0] == names[1]


def test_a_replica_holds_its_part_of_muons_slots(virtual_devices):
    """Of six matrices, each replica owns at most two; a kernel's momentum goes to its owners and back."""
    shapes = {"query_key_value_kernel": (6, 18), "attention_output_kernel": (6, 6), "mlp_output_kernel": (24, 6)}
    shapes |= {"mlp_input_kernel": (6, 24), "bias": (7,)}
    with mirrored(virtual_devices).scope():
        variables = [keras.Variable(np.ones(shape, np.float32), name=name) for name, shape in shapes.items()]
        optimizer = build(SPLIT_MUON, Schedule(kind="constant", steps=9))
        optimizer.build(variables)
    assert optimizer.slot_bytes() == SPLIT_MUON.slot_bytes(shapes, 4) == 4 * (6 * 6 + 6 * 24 + 2 * 2)
    state = optimizer.state()
    assert sorted(state) == sorted(
        [
            "muon/iteration",
            "muon/bias_mean",
            "muon/bias_moment",
            *(f"muon/{name}_momentum" for name in shapes if "_" in name),
        ]
    )
    for name, shape in list(shapes.items())[:-1]:
        whole, value = state[f"muon/{name}_momentum"], np.random.default_rng(0).normal(size=shape).astype(np.float32)
        whole.assign(value)
        np.testing.assert_array_equal(whole.numpy(), value)
        assert whole.shape.as_list() == list(shape)


def test_a_skipped_update_leaves_weights_slots_and_counter_untouched(virtual_devices):
    """All steps are, for their loss, which is finite like their gradients."""
    history, weights, slots = train(MODELS["gpt2"], SPLIT, virtual_devices[:2], 1, skip_loss_above=0.1)
    assert [metrics["skipped"] for metrics in history] == [1.0] * STEPS
    import models

    fresh = {variable.path: variable.numpy() for variable in models.build(MODELS["gpt2"], seed=1).trainable_variables}
    for name, value in weights.items():
        np.testing.assert_array_equal(value, fresh[name], err_msg=name)
    assert not any(np.any(value) for value in slots.values())


@pytest.mark.slow
def test_checkpoints_of_either_setting_are_restored_by_the_other_on_any_replicas(virtual_devices, on_four, tmp_path):
    whole = train(MODELS["gpt2"], WHOLE, virtual_devices[:1], 1, poison=(2,), folder=tmp_path)
    for want, folder, config, replicas in ((*on_four, WHOLE, 1), (whole, tmp_path, SPLIT, 2)):
        devices = virtual_devices[:replicas]
        got = train(MODELS["gpt2"], config, devices, 2, poison=(2,), folder=folder, start=SAVED)
        check_equal(got, want, atol=2e-5, rtol=2e-5)  # other spreads add gradients up in another order
    names = [tf.train.list_variables(f"{folder}/step-0000000{SAVED}/state") for folder in (on_four[1], tmp_path)]
    assert names[0] == names[1]


def test_a_run_goes_on_with_the_other_setting(tmp_path):
    directory = RunDirectory(str(tmp_path))
    directory.write_json("run.json", {"optimizer": as_json(WHOLE)})
    directory.check({"optimizer": as_json(SPLIT)}, RESUMABLE_CHANGES)
    with pytest.raises(UserError, match="optimizer.beta1 is 0.9 there and 0.8 here"):
        directory.check({"optimizer": as_json(dataclasses.replace(SPLIT, beta1=0.8))}, RESUMABLE_CHANGES)


@pytest.mark.parametrize("shape", [(8, 3), (7, 3), (3, 2), (5,), (1,)])
def test_blocks_of_rows_cover_an_array_once(shape):
    """5 rows over 4 replicas are blocks of 2, 2, 1 and none."""
    x = np.arange(1.0, 1 + np.prod(shape), dtype=np.float32).reshape(shape)

    @tf.function(jit_compile=True)
    def placed(replica):
        rows = sharded_slots.own_rows(tf.constant(x), replica, 4)
        assert rows.shape == block_shape(shape, 4)
        return sharded_slots.placed(rows, shape, replica, 4)

    parts = [placed(tf.constant(replica)).numpy() for replica in range(4)]
    np.testing.assert_array_equal(sum(parts), x)
    assert (sum((part != 0).astype(int) for part in parts) == 1).all()


def built(config, devices):
    with tf.distribute.MirroredStrategy(devices, cross_device_ops=tf.distribute.ReductionToOneDevice()).scope():
        variable = keras.Variable(np.ones((7, 3), np.float32), name="kernel")
        optimizer = build(config, Schedule(kind="constant", steps=9))
        optimizer.build([variable])
    return optimizer, variable


def test_the_whole_slot_is_what_was_assigned_and_each_replica_has_its_rows(virtual_devices):
    optimizer, variable = built(SPLIT, virtual_devices)
    slot, whole = optimizer.slots(variable)["mean"], np.arange(21.0, dtype=np.float32).reshape(7, 3)
    slot.whole.assign(whole)
    np.testing.assert_array_equal(slot.whole.numpy(), whole)
    assert slot.whole.shape.as_list() == [7, 3]
    copies = [copy.numpy() for copy in slot.value.values]
    np.testing.assert_array_equal(copies[1], whole[2:4])
    np.testing.assert_array_equal(copies[3], [whole[6], np.zeros(3)])


def test_a_replica_holds_its_part_of_the_slots_bytes(virtual_devices):
    optimizer, _ = built(SPLIT, virtual_devices)
    assert optimizer.slot_bytes() == SPLIT.slot_bytes({"kernel": (7, 3)}, 4) == 2 * 4 * 2 * 3
    assert WHOLE.slot_bytes({"kernel": (7, 3)}, 4) == SPLIT.slot_bytes({"kernel": (7, 3)}, 1) == 2 * 4 * 7 * 3
    assert SGDConfig(learning_rate=1.0).slot_bytes({"kernel": (7, 3)}, 4) == 4 * 7 * 3


def test_one_replica_has_whole_slots(virtual_devices):
    optimizer, variable = built(SPLIT, virtual_devices[:1])
    assert optimizer.slot_owners == 1 and optimizer.slots(variable)["mean"].shape == (7, 3)


def test_an_update_that_takes_slots_for_whole_is_refused(virtual_devices):
    """With one row per replica, shapes would even agree by broadcasting."""
    optimizer, variable = built(SPLIT, virtual_devices)
    with pytest.raises(ValueError, match="slots are split over 4 replicas"):
        optimizer.update([tf.zeros([7, 3])], [variable])
