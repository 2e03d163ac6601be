"""Adafactor against optax, against the published formulas in float64, and against the four known mistakes."""

import itertools

import jax
import keras
import numpy as np
import optax
import pytest
import tensorflow as tf

from pipeline.optimizers.build import build
from pipeline.optimizers.config import AdafactorConfig
from pipeline.optimizers.schedules import Schedule

SHAPES = {"factored": (130, 150), "wide": (256, 128), "small": (20, 300), "vector": (60,), "cube": (3, 140, 130)}


def problem(steps, seed=0):
    """Weights and gradients whose size changes from step to step, so that clipping and decay both matter."""
    rng = np.random.default_rng(seed)
    weights = {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in SHAPES.items()}
    sizes = np.exp(rng.normal(0, 1.5, steps))
    gradients = [
        {name: (size * rng.normal(0, 1, shape)).astype(np.float32) for name, shape in SHAPES.items()} for size in sizes
    ]
    return weights, gradients


def ours(config, weights, gradients, schedule=None, after_50=None, **attributes):
    variables = [keras.Variable(value, name=name) for name, value in weights.items()]
    for variable in variables:
        for name, value in attributes.get(variable.name, {}).items():
            setattr(variable, name, value)
    optimizer = build(config, schedule or Schedule(kind="constant", steps=len(gradients)))
    optimizer.build(variables)
    update = tf.function(lambda *values: optimizer.update(values, variables), jit_compile=True)
    for step, gradient in enumerate(gradients, start=1):
        update(*(tf.constant(gradient[name]) for name in weights))
        if step == 50 and after_50 is not None:
            after_50.update({variable.path: variable.numpy() for variable in variables})
    return {name: variable.numpy() for name, variable in zip(weights, variables, strict=True)}, optimizer


def by_optax(config, weights, gradients, rate=None, after_50=None):
    decay = config.learning_rate * config.weight_decay
    transformation = optax.adafactor(
        rate or config.learning_rate,
        min_dim_size_to_factor=config.min_dim_size_to_factor,
        multiply_by_parameter_scale=config.scale_by_parameter,
        clipping_threshold=config.clip_threshold,
        momentum=config.beta1 or None,
        weight_decay_rate=decay or None,
        weight_decay_mask={name: len(shape) > 1 for name, shape in SHAPES.items()},
    )

    @jax.jit
    def step(weights, state, gradient):
        updates, state = transformation.update(gradient, state, weights)
        return optax.apply_updates(weights, updates), state

    state = transformation.init(weights)
    for number, gradient in enumerate(gradients, start=1):
        weights, state = step(weights, state, gradient)
        if number == 50 and after_50 is not None:
            after_50.update({name: np.array(value) for name, value in weights.items()})
    return {name: np.array(value) for name, value in weights.items()}


def by_the_paper(config, weights, gradients, frozen_decay=False, factors=None):
    """Algorithms 4 and 5 of Shazeer & Stern in float64; matrices and vectors only. ``factors`` of rates are by name."""
    weights = {name: value.astype(np.float64) for name, value in weights.items() if value.ndim < 3}
    rows, columns, moments = {}, {}, {}

    def rms(x):
        return np.sqrt(np.mean(x**2))

    for t, gradient in enumerate(gradients, start=1):
        beta2 = 0.0 if frozen_decay else 1 - t**-0.8
        for name, x in weights.items():
            g = gradient[name].astype(np.float64)
            squares = g**2 + 1e-30
            if x.ndim == 2 and min(x.shape) >= 128:
                rows[name] = beta2 * rows.get(name, 0.0) + (1 - beta2) * squares.sum(axis=1)
                columns[name] = beta2 * columns.get(name, 0.0) + (1 - beta2) * squares.sum(axis=0)
                v = np.outer(rows[name], columns[name]) / rows[name].sum()
            else:
                v = moments[name] = beta2 * moments.get(name, 0.0) + (1 - beta2) * squares
            u = g / np.sqrt(v)
            if config.clip_threshold:
                u /= max(1.0, rms(u) / config.clip_threshold)
            scale = max(1e-3, rms(x)) if config.scale_by_parameter else 1.0
            decay = config.weight_decay * x if x.ndim > 1 else 0.0
            weights[name] = x - config.learning_rate * (factors or {}).get(name, 1.0) * (scale * u + decay)
    return weights


def furthest(a, b):
    return max(float(np.max(np.abs(a[name] - b[name]))) for name in b)


MODES = [
    {"beta1": beta1, "clip_threshold": clip, "scale_by_parameter": scale, "weight_decay": decay}
    for beta1, clip, scale, decay in itertools.product([None, 0.9], [1.0, None], [True, False], [0.0, 0.1])
    if ((beta1 is None) + (clip is None) + scale + (decay > 0)) % 2  # half of all, in which each three occur together
]


@pytest.mark.parametrize("mode", MODES, ids=lambda m: "-".join(str(v) for v in m.values()))
def test_agrees_with_optax_after_50_and_after_200_steps(mode):
    config = AdafactorConfig(learning_rate=1e-2, **mode)
    weights, gradients = problem(200)
    ours_50, optax_50 = {}, {}
    result, _ = ours(config, weights, gradients, after_50=ours_50)
    expected = by_optax(config, weights, gradients, after_50=optax_50)
    assert furthest(ours_50, optax_50) < 1e-5
    assert furthest(result, expected) < 1e-5


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("clip", [1.0, None])
def test_agrees_with_the_published_formulas_in_float64(scale, clip):
    config = AdafactorConfig(learning_rate=1e-2, clip_threshold=clip, scale_by_parameter=scale)
    weights, gradients = problem(200)
    result, _ = ours(config, weights, gradients)
    assert furthest(result, by_the_paper(config, weights, gradients)) < 1e-5


def test_a_decay_frozen_at_the_first_step_would_be_seen():
    """Mistake 1 of others: beta2 computed once. The reference with that mistake is far from ours, and from optax."""
    config = AdafactorConfig(learning_rate=1e-2)
    weights, gradients = problem(50)
    result, optimizer = ours(config, weights, gradients)
    assert furthest(result, by_the_paper(config, weights, gradients, frozen_decay=True)) > 1e-3
    last = np.mean(gradients[-1]["factored"] ** 2, axis=1)
    row = optimizer._slots["factored"]["row"].numpy()
    assert np.max(np.abs(row / last - 1)) > 0.1, "the row remembers only the last gradient"


BY_WIDTH = {  # shapes of a model of width 130 and an ALGPT2's layer, and what base_width=64 makes of their rates
    "query_key_value_kernel": ((130, 390), 64 / 130),
    "attention_output_kernel": ((130, 130), 64 / 130),
    "mlp_input_kernel": ((130, 520), 64 / 130),
    "mlp_output_kernel": ((520, 130), 64 / 130),
    "mlp_input_bias": ((520,), 1.0),
    "attention_norm_scale": ((130,), 1.0),
    "token_table": ((300, 130), 1.0),
    "position_table": ((64, 130), 1.0),
    "enter_kernel": ((130, 200), 1.0),
    "leave_kernel": ((200, 130), 1.0),
}


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_only_the_blocks_matrices_are_slower_in_a_wide_model(decay):
    """Against the formulas in float64; if any variable's rate had another factor, it would be far from them."""
    rng = np.random.default_rng(5)
    weights = {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, (shape, _) in BY_WIDTH.items()}
    gradients = [{name: rng.normal(0, 1, x.shape).astype(np.float32) for name, x in weights.items()} for _ in range(50)]
    config = AdafactorConfig(learning_rate=1e-2, weight_decay=decay, base_width=64)
    result, optimizer = ours(config, weights, gradients)
    factors = {name: factor for name, (_, factor) in BY_WIDTH.items()}
    assert furthest(result, by_the_paper(config, weights, gradients, factors=factors)) < 1e-5
    for name in factors:
        other = by_the_paper(config, weights, gradients, factors=factors | {name: 1.5 * factors[name]})
        assert furthest(result, {name: other[name]}) > 1e-2
    variables = [keras.Variable(value, name=name) for name, value in weights.items()]
    for name, rate in optimizer.effective_rates(variables).items():
        expected = 1e-2 * factors[name] * float(np.sqrt(np.mean(weights[name] ** 2)))
        assert rate == pytest.approx(expected, rel=1e-5)


def test_the_base_width_itself_none_and_an_absolute_rate_change_nothing():
    rates = [AdafactorConfig(learning_rate=0.08, base_width=width) for width in (None, 128)]
    for name, shape in (("block_00/mlp_output_kernel", (512, 128)), ("token_table", (4096, 128))):
        assert [config.rate_of(name, shape) for config in rates] == [0.08, 0.08]
    assert rates[1].rate_of("block_00/mlp_output_kernel", (2048, 512)) == 0.02
    absolute = AdafactorConfig(learning_rate=0.08, base_width=128, scale_by_parameter=False)
    assert absolute.rate_of("block_00/mlp_output_kernel", (2048, 512)) == 0.08


def test_agrees_with_optax_under_a_schedule():
    config = AdafactorConfig(learning_rate=2e-2)
    schedule = Schedule(kind="cosine", steps=60, warmup_steps=12, final_fraction=0.1)
    weights, gradients = problem(60)
    result, _ = ours(config, weights, gradients, schedule)
    rate = lambda step: config.learning_rate * schedule(step, jax.numpy)  # noqa: E731
    assert furthest(result, by_optax(config, weights, gradients, rate)) < 1e-5


def test_no_full_size_slot_stands_beside_factored_ones():
    """Mistake 3 of others."""
    config = AdafactorConfig(learning_rate=1.0)
    assert config.slot_shapes((50304, 768)) == {"row": (768,), "column": (50304,)}
    assert config.slot_shapes((768, 3072)) == {"row": (768,), "column": (3072,)}
    assert config.slot_shapes((12, 768, 3072)) == {"row": (12, 768), "column": (12, 3072)}
    assert config.slot_shapes((3072,)) == {"moment": (3072,)}
    _, optimizer = ours(config, *problem(1))
    slots = [v for v in optimizer.variables if not v.path.endswith("iteration")]
    assert sorted(int(np.prod(v.shape)) for v in slots) == sorted([130, 150, 256, 128, 6000, 60, 3 * 140, 3 * 130])


@pytest.mark.parametrize("beta1", [None, 0, 0.0])
def test_beta1_of_zero_needs_no_slot(beta1):
    assert "momentum" not in AdafactorConfig(learning_rate=1.0, beta1=beta1).slot_shapes((300, 300))


def test_effective_rates_show_the_parameter_scale():
    """Mistake 2 of others: an absolute rate with the scaling on."""
    weights, _ = problem(1)
    weights["vector"] = np.zeros_like(weights["vector"])
    variables = [keras.Variable(value, name=name) for name, value in weights.items()]
    scaled = build(AdafactorConfig(learning_rate=2.5e-4), Schedule(steps=1)).effective_rates(variables)
    for name, value in weights.items():
        expected = 2.5e-4 * max(1e-3, float(np.sqrt(np.mean(value**2))))
        assert scaled[name] == pytest.approx(expected, rel=1e-5)
    absolute = build(AdafactorConfig(learning_rate=2.5e-4, scale_by_parameter=False), Schedule(steps=1))
    assert set(absolute.effective_rates(variables).values()) == {2.5e-4}


@pytest.mark.parametrize("clip", [1.0, 0.5])
def test_padding_a_table_leaves_the_update_of_real_rows_as_it_was(clip):
    config = AdafactorConfig(learning_rate=1e-2, clip_threshold=clip)
    rng = np.random.default_rng(3)
    table = rng.normal(0, 0.02, (200, 130)).astype(np.float32)
    gradients = [rng.normal(0, size, (200, 130)).astype(np.float32) for size in (1, 5, 0.1, 30)]
    plain, _ = ours(config, {"table": table}, [{"table": g} for g in gradients])
    pad = ((0, 56), (0, 0))  # 22 % of padding, so that a mean over it would be far off
    padded, _ = ours(
        config,
        {"table": np.pad(table, pad)},
        [{"table": np.pad(g, pad)} for g in gradients],
        table={"logical_rows": 200},
    )
    np.testing.assert_allclose(padded["table"][:200], plain["table"], rtol=1e-5, atol=1e-8)
    np.testing.assert_array_equal(padded["table"][200:], 0.0)


def test_zero_gradients_give_no_nan():
    """Mistake 4 of others shows here first: the very first update with nothing to divide by."""
    weights, gradients = problem(3)
    nothing = [{name: np.zeros_like(value) for name, value in g.items()} for g in gradients]
    for beta1 in (None, 0.9):
        result, _ = ours(AdafactorConfig(learning_rate=1e-2, beta1=beta1), weights, nothing)
        for name, value in result.items():
            np.testing.assert_array_equal(value, weights[name])
