"""The blocks' hand-written gradients, remat, dropout and loops, against automatic differentiation of a plain model."""

import numpy as np
import pytest
import tensorflow as tf

from models.block import BlockWeights
from models.transformer import apply_block

NAMES = ["gpt2", "algpt2", "algpt2-unfactorized"]


def plain_loss(model, values, tokens):
    """The textbook model in float64, differentiated by TensorFlow: nothing of models/ but the weights' order."""
    config = model.config
    by_id = {id(variable): value for variable, value in zip(model.trainable_variables, values, strict=True)}
    get = lambda variable: by_id[id(variable)]  # noqa: E731

    def norm(x, scale, bias):
        mean, variance = tf.nn.moments(x, [-1], keepdims=True)
        return (x - mean) / tf.sqrt(variance + 1e-5) * scale + bias

    def attend(joined):
        batch, length, _ = joined.shape
        heads = tf.reshape(joined, [batch, length, 3, config.heads, config.head_width])
        q, k, v = tf.unstack(tf.transpose(heads, [2, 0, 3, 1, 4]))
        scores = tf.matmul(q, k, transpose_b=True) / np.sqrt(config.head_width)
        visible = tf.linalg.band_part(tf.ones((length, length), tf.bool), -1, 0)
        weighted = tf.nn.softmax(tf.where(visible, scores, -np.inf)) @ v
        return tf.reshape(tf.transpose(weighted, [0, 2, 1, 3]), [batch, length, config.width])

    x = tf.gather(get(model.table), tokens[:, :-1]) + get(model.positions)[: tokens.shape[1] - 1]
    if getattr(model, "factorized", False):
        x = x @ get(model.enter_kernel) + get(model.enter_bias)
    for layer in range(config.layers):
        w = BlockWeights(*map(get, model.blocks[layer % config.distinct_blocks].variables_by_name))
        joined = norm(x, w.attention_norm_scale, w.attention_norm_bias) @ w.query_key_value_kernel
        branch = attend(joined + w.query_key_value_bias)
        x += branch @ w.attention_output_kernel + w.attention_output_bias
        hidden = norm(x, w.mlp_norm_scale, w.mlp_norm_bias) @ w.mlp_input_kernel + w.mlp_input_bias
        x += tf.nn.gelu(hidden, approximate=True) @ w.mlp_output_kernel + w.mlp_output_bias
    x = norm(x, get(model.norm_scale), get(model.norm_bias))
    if getattr(model, "factorized", False):
        x = x @ get(model.leave_kernel) + get(model.leave_bias)
    logits = tf.matmul(x, get(model.table)[: config.vocabulary_size], transpose_b=True)
    return tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(tokens[:, 1:], logits))


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["none", "attention", "full"])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_equal_those_of_the_unrolled_plain_model(small_model, tools, assert_close, name, remat):
    model = small_model(name, remat=remat)
    tokens = tools.random_tokens(2, 41)
    values = [tf.constant(variable.numpy().astype(np.float64)) for variable in model.trainable_variables]
    with tf.GradientTape() as tape:
        tape.watch(values)
        expected_loss = plain_loss(model, values, tokens)
    expected = [tf.convert_to_tensor(gradient) for gradient in tape.gradient(expected_loss, values)]
    names = [variable.path for variable in model.trainable_variables]
    for function in (tools.loss_and_gradients, tools.compiled(tools.loss_and_gradients)):
        loss, gradients = function(model, tokens)
        assert float(loss) == pytest.approx(float(expected_loss), rel=1e-6)
        assert_close(gradients, expected, 1e-5, names)


@pytest.mark.slow
def test_remat_computes_the_same_gradients_with_dropout(small_model, tools, assert_close):
    for name in ("gpt2", "algpt2"):
        results = []
        for remat in ("none", "attention", "full"):
            model = small_model(name, remat=remat, dropout=0.2)
            seeds = tf.constant([[1, 0], [2, 0]])
            results.append(tools.compiled(tools.loss_and_gradients)(model, tools.random_tokens(2, 33), seeds)[1])
        assert_close(results[1], results[0], 1e-6)
        assert_close(results[2], results[0], 1e-6)


@pytest.mark.parametrize("name", ["gpt2", "algpt2"])
def test_dropout_gradient_is_the_slope_of_the_loss(small_model, tools, name):
    model = small_model(name, dropout=0.3)
    tokens, seeds = tools.random_tokens(2, 33), tf.constant([[7, 0], [8, 0]])
    step = tools.compiled(tools.loss_and_gradients)
    _, gradients = step(model, tokens, seeds)
    generator = np.random.default_rng(0)
    start = [variable.numpy() for variable in model.trainable_variables]
    directions = [generator.normal(0, 1, value.shape).astype(np.float32) for value in start]
    slope = sum(float(tf.reduce_sum(gradient * d)) for gradient, d in zip(gradients, directions, strict=True))
    losses = []
    for size in (1e-3, -1e-3):
        for variable, value, direction in zip(model.trainable_variables, start, directions, strict=True):
            variable.assign(value + size * direction)
        losses.append(float(step(model, tokens, seeds)[0]))
    assert (losses[0] - losses[1]) / 2e-3 == pytest.approx(slope, rel=0.02)


@pytest.mark.parametrize("name", ["gpt2", "algpt2"])
def test_dropout_depends_on_an_examples_seed_only(small_model, tools, name):
    model = small_model(name, dropout=0.3)
    features = tools.compiled(model.features)
    tokens, seeds = tools.random_tokens(4, 32), tf.constant([[1, 5], [2, 5], [3, 5], [3, 6]])
    whole = features(tokens, seeds).numpy()
    np.testing.assert_array_equal(whole, features(tokens, seeds))
    order = [2, 0, 3, 1]
    np.testing.assert_allclose(whole[order], features(tf.gather(tokens, order), tf.gather(seeds, order)), atol=1e-5)
    halves = [features(tokens[i : i + 2], seeds[i : i + 2]) for i in (0, 2)]
    np.testing.assert_allclose(whole, np.concatenate(halves), atol=1e-5)
    same_tokens = tf.repeat(tokens[:1], 4, 0)
    different = features(same_tokens, seeds).numpy()
    assert all(not np.allclose(different[i], different[j], atol=1e-2) for i in range(4) for j in range(i))
    assert not np.allclose(whole, features(tokens, None), atol=1e-2)


def test_dropout_rate_and_expectation():
    from models.operations import keep_mask

    index = tf.reshape(tf.range(200 * 64), [200, 64])
    masks = keep_mask(tf.stack([tf.range(50), tf.zeros(50, tf.int32)], 1), 4, index, 0.3).numpy()
    assert set(np.unique(masks)) == {0.0, np.float32(1 / 0.7)}
    assert (masks == 0).mean() == pytest.approx(0.3, abs=0.003)
    flat = (masks == 0).reshape(50, -1) - 0.3
    assert abs(np.corrcoef(flat)[np.triu_indices(50, 1)]).max() < 0.06  # examples are independent
    assert abs((flat[:, 1:] * flat[:, :-1]).mean()) < 0.003  # and so are neighbours
    other_site = keep_mask(tf.constant([[0, 0]]), 5, index, 0.3).numpy()
    assert abs(np.corrcoef(other_site.ravel(), masks[0].ravel())[0, 1]) < 0.03


@pytest.mark.parametrize("remat", ["none", "full"])
def test_a_shared_blocks_program_does_not_grow_with_depth(small_model, tools, remat):

    def lines(layers):
        model = small_model("algpt2", layers=layers, remat=remat)
        step = tools.compiled(lambda tokens: tools.loss_and_gradients(model, tokens))
        return step.experimental_get_compiler_ir(tools.random_tokens(1, 33))(stage="hlo").count("\n")

    assert lines(12) == lines(2) > 100


def test_full_remat_keeps_only_block_inputs(small_model):
    from models.block import block

    x = tf.zeros((1, 48, 32))
    kept = {}
    for remat in ("none", "attention", "full"):
        model = small_model("gpt2", remat=remat)
        parts = block(x, model.blocks[0].tensors(), model.config, None, 0)[1]
        kept[remat] = sum(part.shape.num_elements() for part in parts)
    assert kept["full"] == 0 < kept["attention"] < kept["none"]
    no_square = 48 * (3 * 32 + 32 + 32 + 4 * 32) + 48 * (2 + 2 + 2)
    assert kept["none"] == no_square  # no probabilities


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "algpt2"])
def test_gradients_in_a_replica_of_mirrored_strategy(tools, virtual_devices, assert_close, name):
    import dataclasses

    import models

    config = dataclasses.replace(tools.SMALL[name], remat="full", dropout=0.1)
    tokens, seeds = tools.random_tokens(4, 33), tf.constant([[1, 0], [2, 0], [3, 0], [4, 0]])
    alone = models.build(config)
    expected_loss, expected = tools.compiled(tools.loss_and_gradients)(alone, tokens, seeds)

    # Not by collectives, whose keys two strategies of one process share.
    strategy = tf.distribute.MirroredStrategy(virtual_devices[:2], tf.distribute.ReductionToOneDevice())
    with strategy.scope():
        model = models.build(config)
    inner = tools.compiled(lambda tokens, seeds: tools.loss_and_gradients(model, tokens, seeds))

    @tf.function
    def step():
        def replica():
            context = tf.distribute.get_replica_context()
            start = context.replica_id_in_sync_group * 2
            loss, gradients = inner(tokens[start : start + 2], seeds[start : start + 2])
            return context.all_reduce("SUM", [loss, *gradients])

        return strategy.run(replica)

    loss, *gradients = [strategy.experimental_local_results(value)[0] for value in step()]
    assert float(loss) == pytest.approx(float(expected_loss), rel=1e-5)
    assert_close(gradients, expected, 1e-5)


def test_apply_block_needs_no_gradient_of_seeds(small_model):
    model = small_model("gpt2", dropout=0.5)
    x = tf.random.stateless_normal((2, 8, 32), (0, 0))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = apply_block(x, model.blocks[0].tensors(), model.config, tf.constant([[0, 0], [1, 0]]), 0)
    assert tape.gradient(y, x).shape == x.shape
