"""Twenty steps of small models by a pod's program on the CPU, and by one device's float32 step, to be compared."""

import dataclasses

import numpy as np
import tensorflow as tf

import models
from pipeline.config import batch_plan
from pipeline.config.train_config import TrainConfig, schedule_of
from pipeline.devices import own_process
from pipeline.devices.replicas import strategy_options
from pipeline.optimizers import build as optimizers
from pipeline.preflight import lowering
from pipeline.training.step import make_train_step
from tests.helpers import run_hlo
from tests.helpers.steps import CONTEXT, GLOBAL_BATCH, GPT2, VOCABULARY, compiled_over

STEPS = 20
SEED = 1  # of the first weights
CLIP_NORM = 1.25  # of gradients' norms from 1.0 to 2.3: some are clipped, others are not
SLOTS = ("adafactor/", "adamw/")  # how the paths of an optimizer's variables begin
MADE_WHILE_LOWERING = {models: "build", optimizers: "build", lowering: "_compiled"}  # a function of each module
EVALUATED = ["nll", "weight"]  # what the evaluation program gives


@dataclasses.dataclass(frozen=True)
class Numbers:
    """What a run left: its metrics by name, a value for each step; its first and last weights and its slots by path.

    A pod's have one more axis, of the replicas: the second of a metric, the first of a weight or a slot.
    """

    metrics: dict[str, np.ndarray]
    first: dict[str, np.ndarray]
    weights: dict[str, np.ndarray]
    slots: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Lowered:
    """A pod's program with its batches, the names of its outputs and of its state, and its first weights by path."""

    program: run_hlo.Program
    outputs: list[str]
    state: list[str]
    first: dict[str, np.ndarray]


def settings(optimizer, microbatch, dtype="float32"):
    return TrainConfig(
        model="gpt2",
        optimizer=optimizer,
        steps=STEPS,
        warmup_steps=2,
        global_batch=GLOBAL_BATCH,
        microbatch=microbatch,
        clip_norm=CLIP_NORM,
        compute_dtype=dtype,
    )


def tokens_of(step):
    """Mostly each token decides the next, so that the loss falls, and shows what the weights have learnt."""
    random = np.random.default_rng(step)
    tokens = [random.integers(0, VOCABULARY, GLOBAL_BATCH)]
    for _ in range(CONTEXT):
        tokens.append((5 * tokens[-1] + 3 + 7 * (random.random(GLOBAL_BATCH) < 0.1)) % VOCABULARY)
    return np.stack(tokens, axis=1).astype(np.int32)


def on_one_device(name, optimizer_config, model_config=GPT2):
    """Returns the numbers of the float32 step that takes the global batch at once, on TensorFlow's CPU."""
    strategy = tf.distribute.OneDeviceStrategy("CPU:0")
    plan = batch_plan.plan(global_batch=GLOBAL_BATCH, replicas=1, microbatch=GLOBAL_BATCH, context=CONTEXT)
    with strategy.scope():
        model = models.build(model_config, seed=SEED)
        optimizer = optimizers.build(optimizer_config, schedule_of(settings(name, GLOBAL_BATCH)))
        optimizer.build(model.trainable_variables)
    step = make_train_step(model, optimizer, plan, clip_norm=CLIP_NORM, **strategy_options(strategy))
    run, first = compiled_over(strategy, step, plan), _values(model.trainable_variables)
    history = [run(tf.constant(tokens_of(number))) for number in range(STEPS)]
    metrics = {key: np.stack([step[key].numpy() for step in history]) for key in history[0]}
    return Numbers(metrics, first, _values(model.trainable_variables), _values(optimizer.variables))


def _values(variables):
    return {variable.path: variable.numpy() for variable in variables}


def lowered(monkeypatch, name, optimizer_config, replicas, model_config=GPT2, *, microbatch=1, dtype="bfloat16"):
    """Returns the program that the preflight lowers for this many cores, as it hands it to the TPU's compiler."""
    plan = batch_plan.plan(global_batch=GLOBAL_BATCH, replicas=replicas, microbatch=microbatch, context=CONTEXT)
    batches = [[tokens_of(number), np.arange(GLOBAL_BATCH)] for number in range(STEPS)]
    with monkeypatch.context() as patch:
        kept = {module: _keep(patch, module, attribute) for module, attribute in MADE_WHILE_LOWERING.items()}
        hlo, _ = lowering.lower_train(model_config, optimizer_config, settings(name, microbatch, dtype), plan)
    return _lowered(kept, hlo, replicas, model_config, batches)


def lowered_evaluation(monkeypatch, replicas, batches, model_config=GPT2):
    """Returns the evaluation's program for this many cores, in bfloat16; a batch is tokens and their weights."""
    share = GLOBAL_BATCH // replicas
    plan = batch_plan.plan(global_batch=GLOBAL_BATCH, replicas=replicas, microbatch=share, context=CONTEXT)
    with monkeypatch.context() as patch:
        kept = {module: _keep(patch, module, MADE_WHILE_LOWERING[module]) for module in (models, lowering)}
        hlo, _ = lowering.lower_evaluation(model_config, settings("adafactor", share, "bfloat16"), plan)
    return _lowered(kept, hlo, replicas, model_config, batches)


def _lowered(kept, hlo, replicas, model_config, batches):
    """Finds the parameters of a program among the variables that were made while it was lowered."""
    model, *optimizer, function = (found for [found] in kept.values())
    specs = [tf.TensorSpec([len(part) // replicas, *part.shape[1:]], part.dtype) for part in batches[0]]
    traced = function.get_concrete_function(*specs)
    variables = [*model.trainable_variables, *(variable for one in optimizer for variable in one.variables)]
    of_handle = {id(variable.value.handle): variable for variable in variables}
    state = [of_handle.pop(id(handle)) for handle in traced.captured_inputs]
    assert not of_handle, "each variable is a parameter of the program"
    first = _values(models.build(model_config, seed=SEED).trainable_variables)
    values = [first[v.path] if v.path in first else np.zeros(v.shape, v.dtype) for v in state]
    program = run_hlo.Program(hlo=hlo, replicas=replicas, state=values, batches=batches)
    names = sorted(traced.structured_outputs) if optimizer else EVALUATED
    return Lowered(program, names, [variable.path for variable in state], first)


def _keep(patch, module, attribute):
    """Returns a list that gets what this function of a module returns from here on."""
    function, kept = getattr(module, attribute), []

    def keeping(*arguments, **named):
        kept.append(function(*arguments, **named))
        return kept[-1]

    patch.setattr(module, attribute, keeping)
    return kept


def on_a_pod(programs):
    """Returns the numbers of each lowered program, which XLA compiles for the CPU and runs there."""
    results = own_process.call("XLA on the CPU", run_hlo.run, [lowered.program for lowered in programs])
    return [_numbers(lowered, *result) for lowered, result in zip(programs, results, strict=True)]


def _numbers(lowered, history, state):
    metrics = {name: np.stack([outputs[i] for outputs in history]) for i, name in enumerate(lowered.outputs)}
    weights, slots = {}, {}
    for path, value in zip(lowered.state, state, strict=True):
        (slots if path.startswith(SLOTS) else weights)[path] = value
    return Numbers(metrics, lowered.first, weights, slots)


def of_any_replica(pod):
    """Returns a pod's numbers without the axis of replicas, which must all hold the same bits.

    Slots, which may be split, are all replicas' rows: their first are the whole slot's in either case.
    """
    for name, values in pod.metrics.items():
        np.testing.assert_array_equal(values, values[:, :1].repeat(values.shape[1], 1), err_msg=name)
    for path, values in pod.weights.items():
        np.testing.assert_array_equal(values, values[:1].repeat(len(values), 0), err_msg=path)
    return Numbers(
        {name: values[:, 0] for name, values in pod.metrics.items()},
        pod.first,
        {path: values[0] for path, values in pod.weights.items()},
        {path: values.reshape(-1, *values.shape[2:]) for path, values in pod.slots.items()},
    )


def differences(got, want):
    """Returns how far a pod's run is from another run.

    Returns:
        ``loss``: nats, of the worst step. ``gradient``: of the worst norm of a step's gradient, as a part of it.
        ``weights``: of the variable that is worst, as a part of how far training has moved it. ``slots``: of the slot
        that is worst, as a part of it.
    """
    norm, first = np.linalg.norm, want.first
    assert got.weights.keys() == want.weights.keys() == first.keys() and got.slots.keys() == want.slots.keys()
    weights = [norm(got.weights[path] - want.weights[path]) / norm(want.weights[path] - first[path]) for path in first]
    slots = []
    for path, value in want.slots.items():
        rows = np.atleast_1d(value)
        slots.append(norm(got.slots[path][: len(rows)] - rows) / norm(rows))
    return {
        "loss": np.max(np.abs(got.metrics["loss"] - want.metrics["loss"])),
        "gradient": np.max(np.abs(got.metrics["grad_norm"] / want.metrics["grad_norm"] - 1)),
        "weights": np.max(weights),
        "slots": np.max(slots),
    }
