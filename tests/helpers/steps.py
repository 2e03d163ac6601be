"""A few steps of small models, on any devices, with accumulation, bad weights or an interruption on the way."""

import numpy as np
import tensorflow as tf

import models
from models.config import ALGPT2Config, GPT2Config
from pipeline.config import batch_plan
from pipeline.devices.replicas import strategy_options
from pipeline.optimizers.build import build
from pipeline.optimizers.config import AdafactorConfig, AdamWConfig, SGDConfig
from pipeline.optimizers.schedules import Schedule
from pipeline.runs.checkpoints import Checkpoints, state_of
from pipeline.training.step import make_train_step

GLOBAL_BATCH, STEPS, CONTEXT, VOCABULARY = 16, 5, 8, 97
GPT2 = GPT2Config(layers=1, heads=2, width=32, context=CONTEXT, vocabulary_size=VOCABULARY)
ALGPT2 = ALGPT2Config(layers=2, heads=2, width=32, embedding=16, context=CONTEXT, vocabulary_size=VOCABULARY)
SGD = SGDConfig(learning_rate=0.5, momentum=0.9)
# Some gradients are zero but for rounding (those of key biases): epsilon1 keeps Adafactor from scaling them up.
ADAFACTOR = AdafactorConfig(learning_rate=1e-2, scale_by_parameter=False, min_dim_size_to_factor=16, epsilon1=1e-6)


OPTIMIZERS = {"adafactor": ADAFACTOR, "adamw": AdamWConfig(learning_rate=1e-3, epsilon=1e-4), "sgd": SGD}
SAVED = 2  # steps after which a run is interrupted, where it is


def tokens_of(step):
    return np.random.default_rng(step).integers(0, VOCABULARY, (GLOBAL_BATCH, CONTEXT + 1)).astype(np.int32)


def mirrored(devices):
    return tf.distribute.MirroredStrategy(devices, cross_device_ops=tf.distribute.ReductionToOneDevice())


def compiled_over(strategy, step, plan):
    """Returns a function that makes one step on a global batch of tokens and returns its metrics."""

    @tf.function
    def run(tokens):
        def share(context):
            start = context.replica_id_in_sync_group * plan.per_replica
            return tokens[start : start + plan.per_replica]

        rows = strategy.experimental_distribute_values_from_function(share) if plan.replicas > 1 else tokens
        index = tf.range(plan.per_replica, dtype=tf.int64)
        metrics = strategy.run(lambda x: step({"tokens": x, "index": index}), args=(rows,))
        return {name: strategy.experimental_local_results(value)[0] for name, value in metrics.items()}

    return run


def train(
    model_config,
    optimizer_config,
    devices,
    accumulation,
    poison=(),
    folder=None,
    start=0,
    skip_loss_above=None,
    attention=None,
):
    """Trains from step ``start`` to STEPS; returns the metrics of each step, and the final weights and slots by name.

    Writes a checkpoint to ``folder`` after SAVED steps, or begins with the one that is there.
    """
    replicas = len(devices)
    strategy = mirrored(devices) if replicas > 1 else tf.distribute.OneDeviceStrategy(devices[0])
    plan = batch_plan.plan(
        global_batch=GLOBAL_BATCH,
        replicas=replicas,
        microbatch=GLOBAL_BATCH // replicas // accumulation,
        context=CONTEXT,
    )
    assert plan.accumulation == accumulation
    with strategy.scope():
        model = models.build(model_config, seed=2 if start else 1, compute_dtype="float32", attention=attention)
        optimizer = build(optimizer_config, Schedule(steps=STEPS, warmup_steps=2))
        optimizer.build(model.trainable_variables)
    step = make_train_step(
        model, optimizer, plan, clip_norm=0.05, skip_loss_above=skip_loss_above, **strategy_options(strategy)
    )
    checkpoints = Checkpoints(f"{folder}", state_of(model, optimizer))
    if start:
        assert checkpoints.restore_newest().step == start

    run = compiled_over(strategy, step, plan)
    history = []
    for number in range(start, STEPS):
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
        if folder and not start and number + 1 == SAVED:
            checkpoints.save(SAVED, {})
            checkpoints.wait()
        if number in poison:
            table.assign(clean)
    weights = {variable.path: variable.numpy() for variable in model.trainable_variables}
    slots = {name: value.numpy() for name, value in state_of(model, optimizer).items() if name.startswith("optimizer/")}
    return history, weights, slots
