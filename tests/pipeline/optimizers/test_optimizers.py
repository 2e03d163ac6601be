"""One sweep over all optimizers: devices, accumulation of updates in a loop, saving, Keras's own path, settings."""

import itertools
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.errors import UserError
from pipeline.optimizers.build import build
from pipeline.optimizers.config import AdafactorConfig, AdamWConfig, MuonConfig, SGDConfig, decays, largest_axes
from pipeline.optimizers.schedules import Schedule

SHAPES = {"table": (160, 130), "kernel": (130, 140), "stack": (3, 12, 20), "bias": (140,)}
SHAPES |= {"query_key_value_kernel": (24, 72), "mlp_output_kernel": (40, 24)}  # Muon's matrices
SCHEDULE = Schedule(kind="linear", steps=40, warmup_steps=5)
CONFIGS = {
    "adafactor": AdafactorConfig(learning_rate=1e-2, weight_decay=0.1),
    "adafactor-momentum": AdafactorConfig(learning_rate=1e-2, beta1=0.9),
    "adafactor-by-width": AdafactorConfig(learning_rate=1e-2, weight_decay=0.1, base_width=6),
    "adamw": AdamWConfig(learning_rate=1e-3, weight_decay=0.1),
    "muon": MuonConfig(learning_rate=2e-3, adamw_learning_rate=1e-3, weight_decay=0.1),
    "sgd": SGDConfig(learning_rate=1e-2, weight_decay=0.1),
    "sgd-plain": SGDConfig(learning_rate=1e-2, momentum=0.0),
}


def make_variables(seed=0):
    rng = np.random.default_rng(seed)
    return [keras.Variable(rng.normal(0, 0.1, shape).astype(np.float32), name=name) for name, shape in SHAPES.items()]


def make_gradients(steps, seed=1):
    rng = np.random.default_rng(seed)
    return [[rng.normal(0, 1 + step, shape).astype(np.float32) for shape in SHAPES.values()] for step in range(steps)]


def run(config, steps=6, skip=0, variables=None, optimizer=None):
    variables = variables or make_variables()
    optimizer = optimizer or build(config, SCHEDULE)
    optimizer.build(variables)
    update = tf.function(lambda *gradients: optimizer.update(gradients, variables), jit_compile=True)
    for gradients in make_gradients(steps)[skip:]:
        update(*(tf.constant(g) for g in gradients))
    return variables, optimizer


def state(variables, optimizer):
    return [v.numpy() for v in [*variables, *optimizer.variables]]


def by_name(variables, optimizer):
    """A checkpoint that knows variables by their paths and by nothing else."""
    return tf.train.Checkpoint(**{v.path.replace("/", "."): v.value for v in [*variables, *optimizer.variables]})


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
class TestEveryOptimizer:
    def test_compiled_equals_eager_and_counts(self, config):
        variables, optimizer = run(config)
        eager = make_variables()
        reference = build(config, SCHEDULE)
        reference.build(eager)
        for gradients in make_gradients(6):
            reference.update([tf.constant(g) for g in gradients], eager)
        for a, b in zip(state(variables, optimizer), state(eager, reference), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)
        assert int(optimizer.iterations) == 6

    def test_a_loop_on_the_device_equals_separate_calls(self, config):
        expected = state(*run(config))
        variables = make_variables()
        optimizer = build(config, SCHEDULE)
        optimizer.build(variables)
        stacked = [tf.constant(np.stack(g)) for g in zip(*make_gradients(6), strict=True)]

        @tf.function(jit_compile=True)
        def loop():
            for i in tf.range(6):
                optimizer.update([g[i] for g in stacked], variables)

        loop()
        for a, b in zip(state(variables, optimizer), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)

    @pytest.mark.parametrize("replicas", [1, 2])
    def test_mirrored_replicas_update_their_own_copies(self, config, replicas):
        """No merge call: the same update as on one device, on every replica, inside one compiled function."""
        expected = state(*run(config, steps=3))
        strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])
        with strategy.scope():
            variables = make_variables()
            optimizer = build(config, SCHEDULE)
            optimizer.build(variables)
        compiled = tf.function(lambda *g: optimizer.update(g, variables), jit_compile=True)
        step = tf.function(lambda *g: strategy.run(lambda *gradients: compiled(*gradients), args=g))
        for gradients in make_gradients(3):
            step(*(tf.constant(g) for g in gradients))
        for variable, want in zip([*variables, *optimizer.variables], expected, strict=True):
            copies = strategy.experimental_local_results(variable.value)
            assert len(copies) == replicas
            for copy in copies:
                np.testing.assert_allclose(copy.numpy(), want, rtol=2e-5, atol=1e-6)

    @pytest.mark.parametrize("split", [1, 4])
    def test_saved_and_restored_continues_alike(self, config, split, tmp_path):
        expected = state(*run(config, steps=6))
        variables, optimizer = run(config, steps=split)
        path = by_name(variables, optimizer).save(str(tmp_path / "saved"))
        variables = make_variables(seed=7)
        optimizer = build(config, SCHEDULE)
        optimizer.build(variables)
        by_name(variables, optimizer).restore(path).assert_consumed()
        result = state(*run(config, steps=6, skip=split, variables=variables, optimizer=optimizer))
        for a, b in zip(result, expected, strict=True):
            np.testing.assert_array_equal(a, b)

    def test_names_are_unique_and_stable(self, config):
        first, second = (build(config, SCHEDULE) for _ in range(2))
        for optimizer in (first, second):
            optimizer.build(make_variables())
        paths = [v.path for v in first.variables]
        assert len(set(paths)) == len(paths)
        assert paths == [v.path for v in second.variables]
        assert all(v.dtype == "float32" for v in first.variables[1:])

    def test_slot_bytes_agree_with_the_plan_without_tensors(self, config):
        _, optimizer = run(config, steps=1)
        actual = sum(v.numpy().nbytes for v in optimizer.variables if not v.path.endswith("iteration"))
        assert optimizer.slot_bytes() == config.slot_bytes(SHAPES, replicas=1) == actual

    def test_config_goes_through_json(self, config):
        optimizer = build(config, SCHEDULE)
        again = type(optimizer).from_config(json.loads(json.dumps(optimizer.get_config())))
        assert (again.config, again.schedule) == (config, SCHEDULE)

    def test_bfloat16_gradients_update_float32_weights(self, config):
        variables = make_variables()
        optimizer = build(config, SCHEDULE)
        optimizer.build(variables)
        optimizer.update([tf.cast(g, tf.bfloat16) for g in make_gradients(1)[0]], variables)
        expected = state(*run(config, steps=1))[: len(variables)]
        for variable, want in zip(variables, expected, strict=True):
            assert variable.dtype == "float32"
            np.testing.assert_allclose(variable.numpy(), want, rtol=2e-2, atol=2e-4)

    def test_keras_fit_takes_it(self, config):
        model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(1)])
        model.compile(optimizer=build(config, Schedule(kind="constant", steps=50)), loss="mse")
        x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
        history = model.fit(x, x.sum(axis=1, keepdims=True), epochs=6, verbose=0).history["loss"]
        assert history[-1] < history[0]
        assert int(model.optimizer.iterations) == 12

    def test_decay_spares_biases_and_layer_norms(self, config):
        variables = make_variables()
        before = [v.numpy() for v in variables]
        optimizer = build(config, Schedule(kind="constant", steps=9))
        optimizer.build(variables)
        optimizer.update([tf.zeros(shape) for shape in SHAPES.values()], variables)
        for variable, weights in zip(variables, before, strict=True):
            rate = config.rate_of(variable.path, variable.shape)
            decay = rate * config.weight_decay if decays(variable.shape) else 0.0
            np.testing.assert_allclose(variable.numpy(), weights * (1 - decay), rtol=1e-6)


def test_two_variables_of_one_name_are_refused():
    optimizer = build(SGDConfig(learning_rate=0.1), SCHEDULE)
    with pytest.raises(ValueError, match="two variables are called 'w'"):
        optimizer.build([keras.Variable(np.zeros(2), name="w") for _ in range(2)])


def test_biases_and_norms_do_not_decay():
    assert not decays((768,))
    assert decays((50304, 768))


def test_two_largest_axes():
    assert largest_axes((12, 768, 3072), 128) == (1, 2)
    assert largest_axes((3072, 768), 128) == (1, 0)
    assert largest_axes((768, 768), 128) == (0, 1)
    assert largest_axes((12, 768), 128) is None
    assert largest_axes((768,), 128) is None
    assert largest_axes((128, 128), 128) == (0, 1)
    assert largest_axes((127, 512), 128) is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AdafactorConfig(learning_rate=0.0), "learning_rate=0.0 must be above 0"),
        (lambda: AdafactorConfig(learning_rate=1.0, beta1=1.0), "beta1=1.0 must be None, or from 0 to below 1"),
        (lambda: AdafactorConfig(learning_rate=1.0, clip_threshold=0), "clip_threshold=0"),
        (lambda: AdafactorConfig(learning_rate=1.0, decay_exponent=2), "decay_exponent=2"),
        (lambda: AdamWConfig(learning_rate=1.0, beta2=1.5), "beta2=1.5"),
        (lambda: AdamWConfig(learning_rate=1.0, weight_decay=-1), "weight_decay=-1"),
        (lambda: MuonConfig(learning_rate=1.0, adamw_learning_rate=0.0), "adamw_learning_rate=0.0 must be above 0"),
        (lambda: MuonConfig(learning_rate=1.0, adamw_learning_rate=1.0, newton_schulz_steps=0), "newton_schulz_steps"),
        (lambda: MuonConfig(learning_rate=1.0, adamw_learning_rate=1.0, momentum=1.0), "momentum=1.0"),
        (lambda: SGDConfig(learning_rate=1.0, momentum=-0.5), "momentum=-0.5"),
    ],
)
def test_values_out_of_range_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_steps_in_a_row_do_not_depend_on_how_often_build_is_called():
    config = CONFIGS["adafactor"]
    variables, optimizer = run(config, steps=2)
    optimizer.build(variables)
    assert len(optimizer.variables) == 1 + sum(len(config.slot_shapes(shape)) for shape in SHAPES.values())
    assert list(itertools.chain(*[optimizer.slots(v) for v in variables]))[:2] == ["row", "column"]
