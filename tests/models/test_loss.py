"""The chunked loss against plain softmax cross entropy in float64."""

import numpy as np
import pytest
import tensorflow as tf

from models import loss as loss_module
from models.loss import summed_nll, token_nll

N, E, V, PADDED = 50, 16, 200, 256


def example(deviation=1.0):
    generator = np.random.default_rng(0)
    x = generator.normal(0, deviation, (N, E))
    table = np.zeros((PADDED, E))
    table[:V] = generator.normal(0, deviation, (V, E))
    labels = generator.integers(0, V, N)
    weights = generator.choice([0.0, 0.5, 1.0], N)
    return x, table, labels.astype(np.int32), weights


def reference(x, table, labels, weights):
    x, table = tf.constant(x), tf.constant(table)
    with tf.GradientTape() as tape:
        tape.watch([x, table])
        nll = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, tf.matmul(x, table[:V], transpose_b=True))
        loss = tf.reduce_sum(nll * weights)
    return nll.numpy(), loss.numpy(), *(gradient.numpy() for gradient in tape.gradient(loss, [x, table]))


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("chunk", [1, 16, 25, 50, 1000])
def test_value_and_gradients_equal_plain_float64(chunk, jit):
    x, table, labels, weights = example()

    @tf.function(jit_compile=jit)
    def ours(x, table):
        with tf.GradientTape() as tape:
            tape.watch([x, table])
            loss = 3.0 * summed_nll(x, table, labels, weights, vocabulary_size=V, chunk=chunk)
        scores = token_nll(x, table, labels, vocabulary_size=V, chunk=chunk)
        return scores, loss, *tape.gradient(loss, [x, table])

    nll, loss, dx, d_table = ours(tf.constant(x, tf.float32), tf.constant(table, tf.float32))
    want_nll, want_loss, want_dx, want_d_table = reference(x, table, labels, weights)
    np.testing.assert_allclose(nll, want_nll, rtol=2e-5, atol=2e-5)
    assert float(loss) == pytest.approx(3 * float(want_loss), rel=1e-5)
    np.testing.assert_allclose(dx, 3 * want_dx, atol=1e-5)
    np.testing.assert_allclose(d_table, 3 * want_d_table, atol=3e-5)
    assert d_table.dtype == tf.float32 and not np.any(d_table[V:])


def test_padding_can_never_be_predicted():
    """Even where the padding's logits would win by far, they take no probability and no gradient."""
    x, table, labels, weights = example()
    table[V:] = 50 * np.sign(x[0])
    arguments = tf.constant(x, tf.float32), tf.constant(table, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        loss = summed_nll(*arguments, labels, weights, vocabulary_size=V, chunk=16)
    _, want, want_dx, _ = reference(x, table, labels, weights)
    assert float(loss) == pytest.approx(float(want), rel=1e-5)
    dx, d_table = tape.gradient(loss, arguments)
    np.testing.assert_allclose(dx, want_dx, atol=1e-5)
    assert not np.any(d_table[V:])


def test_padding_is_absent_from_the_models_logits(small_model, tools):
    for name in ("gpt2", "algpt2"):
        model = small_model(name)
        model.table.assign(tf.concat([model.table[: tools.VOCABULARY], tf.fill([84, model.table.shape[1]], 9.0)], 0))
        assert model(tools.random_tokens(1, 8)).shape[-1] == tools.VOCABULARY


def test_huge_logits_stay_finite():
    x, table, labels, weights = example(deviation=40.0)
    loss = summed_nll(
        tf.constant(x, tf.float32), tf.constant(table, tf.float32), labels, weights, vocabulary_size=V, chunk=16
    )
    assert float(loss) == pytest.approx(float(reference(x, table, labels, weights)[1]), rel=1e-4)


def test_bfloat16_features_keep_a_float32_loss_and_table_gradient():
    x, table, labels, weights = example()
    features = tf.cast(tf.constant(x), tf.bfloat16)
    table = tf.cast(tf.cast(tf.constant(table), tf.bfloat16), tf.float32)  # so that only the arithmetic differs
    with tf.GradientTape() as tape:
        tape.watch([features, table])
        loss = summed_nll(features, table, labels, weights, vocabulary_size=V, chunk=16)
    dx, d_table = tape.gradient(loss, [features, table])
    _, want, want_dx, want_d_table = reference(
        features.numpy().astype(float), table.numpy().astype(float), labels, weights
    )
    assert loss.dtype == d_table.dtype == tf.float32 and dx.dtype == tf.bfloat16
    assert float(loss) == pytest.approx(float(want), rel=1e-5)
    np.testing.assert_allclose(tf.cast(dx, tf.float32), want_dx, atol=0.03)
    np.testing.assert_allclose(d_table, want_d_table, atol=0.05)


@pytest.mark.parametrize("lead", [0.0, 60.0])
def test_a_sampled_shift_changes_nothing(lead, monkeypatch):
    """In bfloat16 the shift comes from a part of the table: here the likeliest token lies far above that part."""
    monkeypatch.setattr(loss_module, "SAMPLE_FROM", 128)
    monkeypatch.setattr(loss_module, "SAMPLE_SHARE", 2)
    x, table, labels, weights = example()
    x[:, 0], table[150, 0] = 1.0, lead
    features = tf.cast(tf.constant(x), tf.bfloat16)
    table = tf.cast(tf.cast(tf.constant(table), tf.bfloat16), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch([features, table])
        loss = summed_nll(features, table, labels, weights, vocabulary_size=V, chunk=16)
    dx, d_table = tape.gradient(loss, [features, table])
    _, want, want_dx, want_d_table = reference(
        features.numpy().astype(float), table.numpy().astype(float), labels, weights
    )
    assert float(loss) == pytest.approx(float(want), rel=1e-5)
    np.testing.assert_allclose(tf.cast(dx, tf.float32), want_dx, atol=0.01 * np.abs(want_dx).max())
    np.testing.assert_allclose(d_table, want_d_table, atol=0.01 * np.abs(want_d_table).max())


def test_logits_of_all_tokens_never_exist():
    count, vocabulary, chunk = 512, 1024, 64
    x, table, labels = tf.zeros((count, E)), tf.zeros((vocabulary, E)), tf.zeros(count, tf.int32)

    @tf.function(jit_compile=True)
    def ours(x, table):
        with tf.GradientTape() as tape:
            tape.watch([x, table])
            loss = summed_nll(x, table, labels, tf.ones(count), vocabulary_size=1000, chunk=chunk)
        return tape.gradient(loss, [x, table])

    hlo = ours.experimental_get_compiler_ir(x, table)(stage="optimized_hlo")
    assert f"[{chunk},{vocabulary}]" in hlo and f"[{count},{vocabulary}]" not in hlo
