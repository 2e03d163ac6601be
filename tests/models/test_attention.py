"""Tiled causal attention against the plain formula in float64."""

import numpy as np
import pytest
import tensorflow as tf

from models import attention


def plain(q, k, v):
    scores = tf.matmul(q, k, transpose_a=True) * q.shape[2] ** -0.5
    length = q.shape[3]
    masked = tf.where(tf.linalg.band_part(tf.ones((length, length), tf.bool), -1, 0), scores, -np.inf)
    return tf.matmul(v, tf.nn.softmax(masked), transpose_b=True)


@pytest.mark.parametrize(("length", "smallest"), [(48, 16), (50, 16), (16, 16), (9, 16)])
def test_output_and_gradient_equal_the_plain_formula(length, smallest, monkeypatch):
    monkeypatch.setattr(attention, "MIN_STRIP", smallest)
    generator = np.random.default_rng(0)
    q, k, v, do = (tf.constant(generator.normal(0, 2, (2, 3, 8, length))) for _ in range(4))
    with tf.GradientTape() as tape:
        tape.watch([q, k, v])
        expected = plain(q, k, v)
    expected_gradients = tape.gradient(expected, [q, k, v], do)

    @tf.function(jit_compile=True)
    def ours(q, k, v, do):
        o, log = attention.causal_attention(q, k, v)
        return o, attention.causal_attention_gradient(do, q, k, v, o, log)

    output, gradients = ours(*(tf.cast(x, tf.float32) for x in (q, k, v, do)))
    np.testing.assert_allclose(output, expected, atol=1e-5)
    for got, want in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(got, want, atol=3e-5)


def test_strips_that_are_written_in_place_are_those_that_are_concatenated(monkeypatch):
    """In bfloat16, as a TPU's program has them."""
    monkeypatch.setattr(attention, "MIN_STRIP", 16)
    generator = np.random.default_rng(0)
    q, k, v, do = (tf.constant(generator.normal(0, 1, (2, 3, 8, 50)), tf.bfloat16) for _ in range(4))

    def ours(q, k, v, do):
        o, log = attention.causal_attention(q, k, v)
        return o, *attention.causal_attention_gradient(do, q, k, v, o, log)

    def written(x, strip, start):
        return tf.concat([x[..., :start], strip, x[..., start + strip.shape[3] :]], 3)

    compiled = tf.function(ours, jit_compile=True)
    assert "dynamic-update-slice" in compiled.experimental_get_compiler_ir(q, k, v, do)(stage="hlo")
    in_place = compiled(q, k, v, do)
    monkeypatch.setattr(attention, "_written", written)
    for got, want in zip(in_place, tf.function(ours, jit_compile=True)(q, k, v, do), strict=True):
        np.testing.assert_array_equal(tf.cast(got, tf.float32), tf.cast(want, tf.float32))


def test_large_scores_do_not_overflow():
    q = tf.fill((1, 1, 8, 4), 60.0)
    output, log = attention.causal_attention(q, q, q)
    np.testing.assert_allclose(output, q, rtol=1e-6)
    assert np.all(np.isfinite(log))


def test_what_the_mask_empties_is_not_computed():
    def flops(smallest):
        attention.MIN_STRIP, before = smallest, attention.MIN_STRIP
        try:
            compiled = tf.function(lambda x: attention.causal_attention(x, x, x)[0], jit_compile=True)
            hlo = compiled.experimental_get_compiler_ir(tf.zeros((1, 2, 8, 128)))(stage="hlo")
        finally:
            attention.MIN_STRIP = before
        outputs = [line.split("f32[")[1].split("]")[0].split(",") for line in hlo.splitlines() if " dot(" in line]
        return sum(np.prod([int(size) for size in shape]) for shape in outputs if 8 not in map(int, shape))

    assert flops(32) / flops(128) == pytest.approx((1 + 2 + 3 + 4) / 16)
