"""Muon against its author's code, written in float64 here, and against keras.optimizers.Muon."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.optimizers.build import build
from pipeline.optimizers.config import MuonConfig
from pipeline.optimizers.muon import orthogonalize
from pipeline.optimizers.schedules import Schedule
from tests.helpers.optimizer_updates import updated

KERNELS = {
    "query_key_value_kernel": (24, 72),
    "attention_output_kernel": (24, 24),
    "mlp_input_kernel": (24, 96),
    "mlp_output_kernel": (96, 24),
}
OTHERS = {"token_table": (40, 24), "enter_kernel": (16, 24), "query_key_value_bias": (72,)}
RATES = {"learning_rate": 0.02, "adamw_learning_rate": 4e-3, "weight_decay": 0.1}
# The iteration enlarges the rounding of small singular values by up to 3.4445 ** 5 = 485; an entry changes by 4e-3.
ROUNDING = 2e-5


def problem(shapes, steps):
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    return weights, [
        {name: rng.normal(0, 0.01, shape).astype(np.float32) for name, shape in shapes.items()} for _ in range(steps)
    ]


def published(update):
    """zeropower_via_newtonschulz5 and the scale of muon_update, for a matrix that is stored as [inputs, outputs]."""
    x = update.T  # theirs are [outputs, inputs]
    scale = max(1, x.shape[0] / x.shape[1]) ** 0.5
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / (np.linalg.norm(x) + 1e-7)
    for _ in range(5):
        a = x @ x.T
        b = -4.7750 * a + 2.0315 * a @ a
        x = 3.4445 * x + b @ x
    return scale * (x.T if tall else x).T


@pytest.mark.parametrize("nesterov", [True, False])
def test_agrees_with_its_authors_code_in_float64(nesterov):
    """Kernels by Muon, of queries, keys and values each by itself; all else by AdamW. Both follow the schedule."""
    config, schedule = MuonConfig(**RATES, nesterov=nesterov), Schedule(kind="linear", steps=30, warmup_steps=5)
    weights, gradients = problem(KERNELS | OTHERS, 30)
    result = updated(config, schedule, weights, gradients)
    for name, value in weights.items():
        x, m, v = value.astype(np.float64), 0.0, 0.0
        for t, gradient in enumerate(gradients, start=1):
            g, factor = gradient[name].astype(np.float64), schedule(t - 1)
            if name in KERNELS:
                rate = 0.02 * factor
                m = 0.95 * m + 0.05 * g
                u = 0.05 * g + 0.95 * m if nesterov else m
                matrices = np.split(u, 3 if name == "query_key_value_kernel" else 1, axis=1)
                update = np.concatenate([published(matrix) for matrix in matrices], axis=1)
            else:
                rate = 4e-3 * factor
                m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g**2
                update = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.95**t)) + 1e-8)
            x = x * (1 - (rate * 0.1 if x.ndim > 1 else 0.0)) - rate * update
        np.testing.assert_allclose(result[name], x, rtol=0, atol=ROUNDING, err_msg=name)


def test_agrees_with_keras():
    """Keras scales no update when ``rms_rate`` is None, as we do where there are no more outputs than inputs."""
    shapes = {name: KERNELS[name] for name in ("attention_output_kernel", "mlp_output_kernel")}
    weights, gradients = problem(shapes, 10)
    result = updated(MuonConfig(**RATES), Schedule(kind="constant", steps=10), weights, gradients)
    variables = [keras.Variable(value, name=name) for name, value in weights.items()]
    reference = keras.optimizers.Muon(learning_rate=0.02, weight_decay=0.1, momentum=0.95, rms_rate=None)
    for gradient in gradients:
        reference.apply([tf.constant(g) for g in gradient.values()], variables)
    for variable in variables:
        np.testing.assert_allclose(result[variable.path], variable.numpy(), rtol=0, atol=ROUNDING)


def test_singular_values_end_near_one_and_zeros_stay():
    x = np.stack([np.random.default_rng(0).normal(size=(24, 96)), np.zeros((24, 96))]).astype(np.float32)
    update, zeros = orthogonalize(tf.constant(x), 5).numpy()
    values = np.linalg.svd(update)[1]
    assert 0.6 < values.min() < values.max() < 1.25
    assert not zeros.any()


def test_the_effective_rate_is_the_rms_of_a_change():
    variables = [keras.Variable(np.ones(KERNELS[name]), name=name) for name in KERNELS]
    variables.append(keras.Variable(np.ones(OTHERS["enter_kernel"]), name="enter_kernel"))
    rates = build(MuonConfig(**RATES), Schedule(steps=1)).effective_rates(variables)
    assert rates.pop("enter_kernel") == 4e-3
    for name, rate in rates.items():
        (inputs, columns), count = KERNELS[name], 3 if name == "query_key_value_kernel" else 1
        outputs = columns // count
        exact = np.linalg.qr(np.ones((max(inputs, outputs),) * 2))[0][:inputs, :outputs]  # orthogonal rows or columns
        change = 0.02 * max(1, outputs / inputs) ** 0.5 * exact
        assert rate == pytest.approx(0.02 / inputs**0.5)
        assert np.linalg.norm(change) / exact.size**0.5 == pytest.approx(rate, rel=1e-6), name
