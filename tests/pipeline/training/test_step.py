"""The step: however a global batch is spread over replicas and microbatches, losses and weights are the same."""

import numpy as np
import pytest

from models.config import ALGPT2Config, GPT2Config
from pipeline.training import batch
from pipeline.training.optimizers import AdafactorConfig, SGDConfig
from pipeline.training.schedules import Schedule

GLOBAL_BATCH, STEPS, CONTEXT, VOCABULARY = 16, 5, 8, 97
GPT2 = GPT2Config(layers=1, heads=2, width=32, context=CONTEXT, vocabulary_size=VOCABULARY)
ALGPT2 = ALGPT2Config(layers=2, heads=2, width=32, embedding=16, context=CONTEXT, vocabulary_size=VOCABULARY)
SGD = SGDConfig(learning_rate=0.5, momentum=0.9)
# Some gradients are zero but for rounding (those of key biases): epsilon1 keeps Adafactor from scaling them up.
ADAFACTOR = AdafactorConfig(learning_rate=1e-2, scale_by_parameter=False, min_dim_size_to_factor=16, epsilon1=1e-6)


def tokens_of(step):
    return np.random.default_rng(step).integers(0, VOCABULARY, (GLOBAL_BATCH, CONTEXT + 1)).astype(np.int32)


def mirrored(devices):
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(devices, cross_device_ops=tf.distribute.ReductionToOneDevice())


def train(model_config, optimizer_config, devices, accumulation, clip_norm=0.05, poison=()):
    """Trains STEPS steps; returns the metrics of each step and the final weights by name."""
    import tensorflow as tf

    import models
    from pipeline.training.step import make_train_step, strategy_options

    replicas = len(devices)
    strategy = mirrored(devices) if replicas > 1 else tf.distribute.OneDeviceStrategy(devices[0])
    plan = batch.plan(
        global_batch=GLOBAL_BATCH,
        replicas=replicas,
        microbatch=GLOBAL_BATCH // replicas // accumulation,
        context=CONTEXT,
    )
    assert plan.accumulation == accumulation
    with strategy.scope():
        model = models.build(model_config, seed=1)
        optimizer = optimizer_config.build(Schedule(steps=STEPS, warmup_steps=2))
        optimizer.build(model.trainable_variables)
    step = make_train_step(model, optimizer, plan, clip_norm=clip_norm, **strategy_options(strategy))

    @tf.function
    def run(tokens):
        def share(context):
            start = context.replica_id_in_sync_group * plan.per_replica
            return tokens[start : start + plan.per_replica]

        rows = strategy.experimental_distribute_values_from_function(share) if replicas > 1 else tokens
        index = tf.range(plan.per_replica, dtype=tf.int64)
        metrics = strategy.run(lambda x: step({"tokens": x, "index": index}), args=(rows,))
        return {name: strategy.experimental_local_results(value)[0] for name, value in metrics.items()}

    history = []
    for number in range(STEPS):
        if number in poison:
            table = model.table
            clean = table.numpy()
            table.assign(np.full(table.shape, np.nan, np.float32))
        metrics = run(tf.constant(tokens_of(number)))
        assert metrics["gradient_norms"].shape == [len(model.trainable_variables)]
        assert np.allclose(
            np.linalg.norm(metrics.pop("gradient_norms")), metrics["grad_norm"], equal_nan=True, rtol=1e-5
        )
        history.append({name: float(value) for name, value in metrics.items()})
        if number in poison:
            table.assign(clean)
    return history, {variable.path: variable.numpy() for variable in model.trainable_variables}


@pytest.mark.parametrize(
    ("model", "optimizer", "spreads"),
    [
        (GPT2, SGD, [(1, 2), (1, 4), (2, 1), (2, 2), (2, 4), (4, 1), (4, 2), (4, 4)]),
        (ALGPT2, ADAFACTOR, [(1, 4), (2, 2)]),
    ],
    ids=["gpt2-sgd", "algpt2-adafactor"],
)
@pytest.mark.slow
def test_replicas_and_accumulation_change_nothing(virtual_devices, model, optimizer, spreads):
    want_history, want_weights = train(model, optimizer, virtual_devices[:1], 1)
    assert all(step["grad_norm"] > 0.05 for step in want_history), "clipping must be at work"
    for replicas, accumulation in spreads:
        history, weights = train(model, optimizer, virtual_devices[:replicas], accumulation)
        for want, got in zip(want_history, history, strict=True):
            np.testing.assert_allclose(got["loss"], want["loss"], rtol=2e-6)
            np.testing.assert_allclose(got["grad_norm"], want["grad_norm"], rtol=2e-5)
        for name, value in want_weights.items():
            np.testing.assert_allclose(weights[name], value, rtol=0, atol=2e-5, err_msg=name)


def test_a_non_finite_step_leaves_everything_untouched(virtual_devices):
    history, weights = train(GPT2, SGD, virtual_devices[:1], 2, poison=(0, 1, 2, 3, 4))
    assert [step["skipped"] for step in history] == [1.0] * STEPS
    import models

    fresh = {variable.path: variable.numpy() for variable in models.build(GPT2, seed=1).trainable_variables}
    for name, value in weights.items():
        np.testing.assert_array_equal(value, fresh[name], err_msg=name)


def test_a_finite_step_is_not_skipped(virtual_devices):
    history, weights = train(GPT2, SGD, virtual_devices[:2], 2)
    assert [step["skipped"] for step in history] == [0.0] * STEPS
    assert history[-1]["loss"] < 1.05 * np.log(VOCABULARY) and all(np.isfinite(v).all() for v in weights.values())
