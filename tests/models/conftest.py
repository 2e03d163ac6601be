"""Small models and the gradients of their loss, shared by the models' tests."""

import dataclasses

import numpy as np
import pytest

import models

VOCABULARY = 300  # not a multiple of 128, so that there is padding
SMALL = {
    "gpt2": models.GPT2Config(layers=2, heads=2, width=32, context=48, vocabulary_size=VOCABULARY),
    "algpt2": models.ALGPT2Config(layers=3, heads=2, width=32, context=48, vocabulary_size=VOCABULARY, embedding=16),
    "algpt2-unfactorized": models.ALGPT2Config(
        layers=3, heads=2, width=32, context=48, vocabulary_size=VOCABULARY, embedding=None
    ),
}


def random_tokens(rows: int, length: int, seed: int = 0):
    import tensorflow as tf  # late in this file: test_config.py needs none

    return tf.constant(np.random.default_rng(seed).integers(0, VOCABULARY, (rows, length)), tf.int32)


def shake(model, seed: int = 1) -> None:
    """Moves every weight, biases and norms included, far enough that no term of a gradient can hide."""
    generator = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        value = variable.numpy()
        noise = generator.normal(0, 0.1, value.shape).astype(np.float32)
        if variable is model.table:
            noise[VOCABULARY:] = 0
        variable.assign(value + noise)


def loss_and_gradients(model, tokens, seeds=None, chunk=40):
    """Summed loss of tokens [B, T+1] and its gradients, as the training step computes them."""
    import tensorflow as tf

    from models.loss import summed_nll

    variables = model.trainable_variables
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        values = [variable.value for variable in variables]
        tape.watch(values)
        features = model.features(tokens[:, :-1], seeds)
        labels = tf.reshape(tokens[:, 1:], [-1])
        loss = summed_nll(
            tf.reshape(features, [-1, features.shape[-1]]),
            model.table.value,
            labels,
            tf.ones(labels.shape),
            vocabulary_size=VOCABULARY,
            chunk=chunk,
        )
    return loss, [tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, values)]


def compiled(function):
    import tensorflow as tf

    return tf.function(function, jit_compile=True, autograph=False)


@pytest.fixture
def small_model():
    """small_model(name, **changes of the config): a small model with shaken weights."""

    def make(name: str, compute_dtype: str = "float32", **changes):
        model = models.build(dataclasses.replace(SMALL[name], **changes), compute_dtype=compute_dtype)
        shake(model)
        return model

    return make


@pytest.fixture
def tools():
    """The functions of this file, which importlib mode keeps tests from importing."""
    import types

    return types.SimpleNamespace(
        VOCABULARY=VOCABULARY,
        SMALL=SMALL,
        random_tokens=random_tokens,
        shake=shake,
        loss_and_gradients=loss_and_gradients,
        compiled=compiled,
    )


@pytest.fixture
def assert_close():
    """assert_close(gots, wants, tolerance): arrays agree within tolerance · the largest value of each."""

    def check(gots, wants, tolerance, names=None):
        for place, (got, want) in enumerate(zip(gots, wants, strict=True)):
            got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
            distance = np.abs(got - want).max() / (np.abs(want).max() + 1e-30)
            assert distance <= tolerance, f"{names[place] if names else place}: {distance} > {tolerance}"

    return check
