"""The layer norm against its formula in float64."""

import numpy as np
import pytest
import tensorflow as tf

from models.operations import LAYER_NORM_EPSILON, layer_norm


@pytest.mark.parametrize(("dtype", "output", "inverse"), [(tf.float32, 1e-4, 1e-5), (tf.bfloat16, 0.02, 2e-3)])
@pytest.mark.parametrize("mean", [0.0, 3.0, 30.0, -100.0])
def test_it_is_the_formula_of_the_values_that_it_is_given(dtype, output, inverse, mean):
    """With means up to 100 times the deviation; bfloat16 leaves little of such values, and one pass loses no more."""
    generator = np.random.default_rng(0)
    x = tf.cast(tf.constant(generator.normal(mean, 1.0, (2, 5, 768))), dtype)
    scale, bias = (tf.constant(generator.normal(1.0, 0.1, 768), tf.float32) for _ in range(2))
    exact = x.numpy().astype(np.float64)
    deviation = np.sqrt(exact.var(-1, keepdims=True) + LAYER_NORM_EPSILON)
    expected = (exact - exact.mean(-1, keepdims=True)) / deviation * scale.numpy() + bias.numpy()
    got, (_, got_inverse) = layer_norm(x, scale, bias)
    assert got.dtype == dtype
    np.testing.assert_allclose(got.numpy().astype(np.float64), expected, atol=output)
    np.testing.assert_allclose(got_inverse, 1.0 / deviation, rtol=inverse)
