"""SGD with momentum against optax."""

import keras
import numpy as np
import optax
import pytest
import tensorflow as tf

from pipeline.optimizers.build import build
from pipeline.optimizers.config import SGDConfig
from pipeline.optimizers.schedules import Schedule


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_agrees_with_optax(momentum, nesterov):
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(0, 1, shape).astype(np.float32) for name, shape in {"w": (30, 40), "b": (40,)}.items()}
    gradients = [{k: rng.normal(0, 1, v.shape).astype(np.float32) for k, v in weights.items()} for _ in range(50)]
    config = SGDConfig(learning_rate=1e-2, momentum=momentum, nesterov=nesterov)
    schedule = Schedule(kind="cosine", steps=50, warmup_steps=5)
    transformation = optax.sgd(
        lambda step: config.learning_rate * schedule(step, np), momentum=momentum or None, nesterov=nesterov
    )
    expected, state = weights, transformation.init(weights)
    variables = [keras.Variable(value, name=name) for name, value in weights.items()]
    optimizer = build(config, schedule)
    optimizer.build(variables)
    update = tf.function(lambda *values: optimizer.update(values, variables), jit_compile=True)
    for gradient in gradients:
        updates, state = transformation.update(gradient, state, expected)
        expected = optax.apply_updates(expected, updates)
        update(*(tf.constant(g) for g in gradient.values()))
    for variable in variables:
        np.testing.assert_allclose(variable.numpy(), np.array(expected[variable.path]), rtol=0, atol=1e-5)
