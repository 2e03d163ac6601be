"""GPT-2 as a model: parity with keras-hub, dtypes, initial weights, padding, saving."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import models


def keras_hub_twin(model):
    """keras-hub's GPT-2 with this model's weights."""
    from keras_hub.models import GPT2Backbone

    c = model.config
    twin = GPT2Backbone(
        vocabulary_size=c.vocabulary_size,
        num_layers=c.layers,
        num_heads=c.heads,
        hidden_dim=c.width,
        intermediate_dim=4 * c.width,
        max_sequence_length=c.context,
        dropout=0.0,
    )
    values = [model.table.numpy()[: c.vocabulary_size], model.positions.numpy()]
    split, flat = (c.width, c.heads, c.head_width), (c.heads, c.head_width)
    for block in model.blocks:
        w = [variable.numpy() for variable in block.variables_by_name]
        kernels, biases = np.split(w[2], 3, axis=1), np.split(w[3], 3)
        for kernel, bias in zip(kernels, biases, strict=True):
            values += [kernel.reshape(split), bias.reshape(flat)]
        values += [w[4].reshape(c.heads, c.head_width, c.width), w[5], w[0], w[1], w[8], w[9], w[10], w[11], w[6], w[7]]
    twin.set_weights([*values, model.norm_scale.numpy(), model.norm_bias.numpy()])
    return twin


def test_logits_equal_keras_hub(small_model, tools):
    model = small_model("gpt2")
    twin = keras_hub_twin(model)
    tokens = tools.random_tokens(3, 48)
    hidden = twin({"token_ids": tokens, "padding_mask": tf.ones_like(tokens)})
    expected = twin.token_embedding(hidden, reverse=True).numpy()
    assert expected.std() > 0.3  # the weights are shaken: equality says something
    for logits in (model(tokens), tools.compiled(model)(tokens)):
        assert logits.shape == (3, 48, tools.VOCABULARY) and logits.dtype == tf.float32
        np.testing.assert_allclose(logits, expected, atol=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "algpt2", "algpt2-unfactorized"])
def test_bfloat16_stays_near_float32(small_model, tools, name, assert_close):
    exact, rounded = small_model(name), small_model(name, "bfloat16")
    tokens = tools.random_tokens(4, 33)
    assert rounded.features(tokens[:, :-1]).dtype == tf.bfloat16
    assert all(variable.dtype == "float32" for variable in rounded.trainable_variables)
    loss, gradients = tools.compiled(tools.loss_and_gradients)(rounded, tokens)
    expected_loss, expected = tools.compiled(tools.loss_and_gradients)(exact, tokens)
    assert loss.dtype == tf.float32 and all(gradient.dtype == tf.float32 for gradient in gradients)
    assert abs(float(loss / expected_loss) - 1) < 2e-3
    assert_close(gradients, expected, 0.06, [variable.path for variable in exact.trainable_variables])


@pytest.mark.parametrize("name", ["gpt2", "algpt2"])
def test_weights_are_a_function_of_the_seed(tools, name):
    one, same, other = (models.build(tools.SMALL[name], seed=seed) for seed in (3, 3, 4))
    for a, b, c in zip(one.trainable_variables, same.trainable_variables, other.trainable_variables, strict=True):
        np.testing.assert_array_equal(a, b)
        random = "kernel" in a.path or "table" in a.path
        assert np.array_equal(a, c) != random, a.path
    kernels = [variable.numpy() for variable in one.trainable_variables if "kernel" in variable.path]
    assert len({kernel.ravel()[0] for kernel in kernels}) == len(kernels)  # no two share their draw


def test_initial_deviations_are_gpt2s():
    model = models.build(models.GPT2Config(layers=8, heads=2, width=128, context=64, vocabulary_size=1000))
    weights = model.blocks[3].variables_by_name
    assert np.std(model.table[:1000]) == pytest.approx(0.02, rel=0.02)
    assert np.std(weights.query_key_value_kernel) == pytest.approx(0.02, rel=0.02)
    assert np.std(weights.attention_output_kernel) == pytest.approx(0.02 / 4, rel=0.03)
    assert np.std(weights.mlp_output_kernel) == pytest.approx(0.02 / 4, rel=0.03)
    assert not np.any(model.table[1000:]) and model.table.logical_rows == 1000


def test_a_prediction_sees_no_later_token(small_model, tools):
    model = small_model("gpt2")
    tokens = tools.random_tokens(1, 48).numpy()
    changed = tokens.copy()
    changed[0, 30:] = (changed[0, 30:] + 1) % tools.VOCABULARY
    before, after = model(tf.constant(tokens)), model(tf.constant(changed))
    np.testing.assert_allclose(before[0, :30], after[0, :30], atol=1e-6)
    assert not np.allclose(before[0, 30:], after[0, 30:], atol=1e-2)


def test_sequences_longer_than_the_context_are_refused(small_model, tools):
    with pytest.raises(ValueError, match="49 tokens in a sequence; the model's context is 48"):
        small_model("gpt2").features(tools.random_tokens(1, 49))


@pytest.mark.parametrize("name", ["gpt2", "algpt2"])
def test_keras_saves_and_loads_it(small_model, tools, name, tmp_path):
    model = small_model(name)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    tokens = tools.random_tokens(2, 20)
    assert again.config == model.config
    np.testing.assert_array_equal(model(tokens), again(tokens))
