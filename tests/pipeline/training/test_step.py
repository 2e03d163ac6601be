"""The step: however a global batch is spread over replicas and microbatches, losses and weights are the same."""

import numpy as np
import pytest

import models
from tests.helpers.steps import ALGPT2, GPT2, OPTIMIZERS, SAVED, SGD, STEPS, VOCABULARY, train


@pytest.mark.parametrize("name", ["sgd", "adafactor"])
@pytest.mark.slow
def test_replicas_accumulation_and_a_restart_change_nothing(virtual_devices, name, tmp_path):
    """On other replicas, in other microbatches, and from a checkpoint on.

    AdamW is in test_sharded_slots.py, and bfloat16 in ../preflight/test_numbers.py.
    """
    spreads = [(1, 4, SAVED), (2, 2, SAVED)]
    spreads += [(4, 1, 0)] if name == "sgd" else []
    model, optimizer = ALGPT2 if name == "adafactor" else GPT2, OPTIMIZERS[name]
    want_history, want_weights, _ = train(model, optimizer, virtual_devices[:1], 1, folder=tmp_path)
    assert all(step["grad_norm"] > 0.05 for step in want_history), "clipping must be at work"
    for replicas, accumulation, start in spreads:
        devices = virtual_devices[:replicas]
        history, weights, _ = train(model, optimizer, devices, accumulation, folder=tmp_path, start=start)
        for want, got in zip(want_history[start:], history, strict=True):
            np.testing.assert_allclose(got["loss"], want["loss"], rtol=2e-6)
            np.testing.assert_allclose(got["grad_norm"], want["grad_norm"], rtol=2e-5)
        for path, value in want_weights.items():
            np.testing.assert_allclose(weights[path], value, rtol=0, atol=2e-5, err_msg=path)


def test_a_non_finite_step_leaves_everything_untouched(virtual_devices):
    history, weights, _ = train(GPT2, SGD, virtual_devices[:1], 2, poison=(0, 1, 2, 3, 4))
    assert [step["skipped"] for step in history] == [1.0] * STEPS
    fresh = {variable.path: variable.numpy() for variable in models.build(GPT2, seed=1).trainable_variables}
    for name, value in weights.items():
        np.testing.assert_array_equal(value, fresh[name], err_msg=name)


def test_a_finite_step_is_not_skipped(virtual_devices):
    history, weights, _ = train(GPT2, SGD, virtual_devices[:2], 2)
    assert [step["skipped"] for step in history] == [0.0] * STEPS
    assert history[-1]["loss"] < 1.05 * np.log(VOCABULARY) and all(np.isfinite(v).all() for v in weights.values())
