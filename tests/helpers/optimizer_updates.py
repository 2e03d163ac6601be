"""Weights after updates by an optimizer of ours, compiled as in a training step."""

import keras
import tensorflow as tf

from pipeline.optimizers.build import build


def updated(config, schedule, weights, gradients):
    """Returns the weights (arrays by name) after one update for each of ``gradients``, which have the same names."""
    variables = [keras.Variable(value, name=name) for name, value in weights.items()]
    optimizer = build(config, schedule)
    optimizer.build(variables)
    update = tf.function(lambda *values: optimizer.update(values, variables), jit_compile=True)
    for gradient in gradients:
        update(*(tf.constant(g) for g in gradient.values()))
    return {name: variable.numpy() for name, variable in zip(weights, variables, strict=True)}
