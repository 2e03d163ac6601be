"""AdamW against optax, with its mask, and against the published formulas in float64."""

import keras
import numpy as np
import optax
import pytest

from pipeline.optimizers.build import build
from pipeline.optimizers.config import AdamWConfig
from pipeline.optimizers.schedules import Schedule
from tests.helpers.optimizer_updates import updated

SHAPES = {"kernel": (40, 50), "table": (30, 20), "bias": (50,), "scale": (20,)}


def problem(steps):
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in SHAPES.items()}
    sizes = np.exp(rng.normal(0, 1, steps))
    return weights, [
        {name: (size * rng.normal(0, 1, shape)).astype(np.float32) for name, shape in SHAPES.items()} for size in sizes
    ]


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("beta1", [0.9, 0.0])
@pytest.mark.parametrize("steps", [50, 200])
def test_agrees_with_optax(weight_decay, beta1, steps):
    config = AdamWConfig(learning_rate=3e-3, weight_decay=weight_decay, beta1=beta1)
    schedule = Schedule(kind="linear", steps=steps, warmup_steps=10)
    weights, gradients = problem(steps)
    transformation = optax.adamw(
        lambda step: config.learning_rate * schedule(step, np),
        b1=beta1,
        b2=config.beta2,
        eps=config.epsilon,
        weight_decay=weight_decay,
        mask={"kernel": True, "table": True, "bias": False, "scale": False},
    )
    expected, state = weights, transformation.init(weights)
    for gradient in gradients:
        updates, state = transformation.update(gradient, state, expected)
        expected = optax.apply_updates(expected, updates)
    result = updated(config, schedule, weights, gradients)
    for name, value in expected.items():
        np.testing.assert_allclose(result[name], np.array(value), rtol=0, atol=1e-5)


def test_agrees_with_the_published_formulas_in_float64():
    config = AdamWConfig(learning_rate=1e-3, weight_decay=0.1, beta2=0.99)
    weights, gradients = problem(200)
    result = updated(config, Schedule(kind="constant", steps=200), weights, gradients)
    for name, value in weights.items():
        x, m, v = value.astype(np.float64), 0.0, 0.0
        for t, gradient in enumerate(gradients, start=1):
            g = gradient[name].astype(np.float64)
            m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g**2
            update = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.99**t)) + 1e-8)
            x = x - 1e-3 * update - (1e-3 * 0.1 * x if x.ndim > 1 else 0.0)
        np.testing.assert_allclose(result[name], x, rtol=0, atol=1e-5)


def test_effective_rate_is_the_rate():
    variable = keras.Variable(np.full((3, 3), 7.0), name="w")
    assert build(AdamWConfig(learning_rate=3e-4), Schedule(steps=1)).effective_rates([variable]) == {"w": 3e-4}
