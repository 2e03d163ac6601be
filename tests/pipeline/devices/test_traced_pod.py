"""The training program as the real TPUStrategy builds it for slices of v3, asserted on its graphs; nothing runs.

The programs are those of a run: ``Session``'s data and its Trainer's own loop of steps and evaluation.
"""

import math

import numpy as np
import pytest
import tensorflow as tf

from models import kernel_shapes
from models.config import ALGPT2Config, GPT2Config
from pipeline.config import attention_path
from pipeline.data.reading import datasets
from pipeline.devices import fused_kernels, slices
from pipeline.devices.connect import Connection
from pipeline.optimizers.config import AdafactorConfig, AdamWConfig, MuonConfig
from pipeline.training import session as sessions
from pipeline.training.hooks.evaluation import Evaluation
from tests.helpers.sessions import MICROBATCH, hook_of, session_on, trainer_of
from tests.helpers.shards import CONTEXT
from tests.helpers.tpu_programs import (
    LOOPS,
    check_all_reduces,
    check_it_stays_on_the_cores,
    check_shapes_are_static,
    constants_of,
    program_of,
)

SKIP_ABOVE = 9.25  # nats, as no other number of the program is
SIZE = {"heads": 2, "width": 128, "context": CONTEXT, "vocabulary_size": 500}
ADAMW = {"learning_rate": 1e-3, "weight_decay": 0.1}
MODELS = {"gpt2": (GPT2Config, {"layers": 1}), "algpt2": (ALGPT2Config, {"layers": 2})}  # ALGPT2's share their weights
OPTIMIZERS = {"adafactor": AdafactorConfig(**ADAMW), "adamw": AdamWConfig(**ADAMW)}
OPTIMIZERS["sharded"] = AdamWConfig(**ADAMW, slots="sharded")
OPTIMIZERS["muon"] = MuonConfig(**ADAMW, adamw_learning_rate=1e-3)
OPTIMIZERS["muon-sharded"] = MuonConfig(**ADAMW, adamw_learning_rate=1e-3, slots="sharded")
# Each value of a setting, and each pair of model and optimizer: model, optimizer, rematerialisation, accumulation,
# dropout, skip_loss_above.
VARIANTS = [
    ("gpt2", "adafactor", "none", 1, 0.0, None),
    ("gpt2", "adamw", "full", 2, 0.1, SKIP_ABOVE),
    ("gpt2", "sharded", "none", 2, 0.1, None),
    ("algpt2", "adafactor", "full", 2, 0.0, SKIP_ABOVE),
    ("algpt2", "adamw", "none", 1, 0.1, SKIP_ABOVE),
    ("algpt2", "sharded", "full", 1, 0.0, None),
    ("algpt2", "muon", "none", 2, 0.0, None),
    ("gpt2", "muon-sharded", "none", 2, 0.0, None),
]
# 128 copies of each variable take half a minute: the study's own model is traced so. Split slots are on 4 hosts.
SLICES = {("algpt2", "adafactor"): "v3-128", ("gpt2", "sharded"): "v3-32"}


def described_session(described_strategy, name, directory, variant=VARIANTS[0]):
    """Returns a run on a slice that is only described."""
    kind, optimizer, remat, accumulation, dropout, skip_loss_above = variant
    piece, strategy = slices.find(name), described_strategy(name)
    assert (strategy.num_replicas_in_sync, strategy.extended.num_hosts) == (piece.cores, piece.hosts)
    connection = Connection(strategy=strategy, replicas=piece.cores, hosts=piece.hosts, slice=piece, kind="tpu")
    config, layers = MODELS[kind]
    return session_on(
        connection,
        directory,
        config(**SIZE, **layers, remat=remat, dropout=dropout),
        OPTIMIZERS[optimizer],
        accumulation=accumulation,
        skip_loss_above=skip_loss_above,
    )


def check_variant(described_strategy, name, directory, variant):
    """Traces the loop of steps and the evaluation of a run, checks both and returns the first."""
    _, optimizer_name, _, accumulation, dropout, skip_loss_above = variant
    session = described_session(described_strategy, name, directory, variant)
    replicas = session.plan.replicas
    with tf.Graph().as_default():  # eager code would try to place the variables on cores that are not there
        trainer = trainer_of(session)
        model, optimizer, evaluating = trainer.state.model, trainer.state.optimizer, hook_of(trainer, Evaluation)

        @tf.function
        def steps(count):
            return trainer._run_steps(iter(trainer.data.train(0)), count)

        @tf.function
        def evaluation():
            return evaluating.run_step(next(iter(trainer.data.validation())))

        training = program_of(steps.get_concrete_function(tf.TensorSpec([], tf.int32)).graph)
        scoring = program_of(evaluation.get_concrete_function().graph)

    # Variables stand on every core; where each core has its rows of the slots, so they do.
    variables, split = model.trainable_variables, optimizer_name.endswith("sharded")
    for variable in [*variables, *optimizer.variables]:
        assert type(variable.value).__name__ == "TPUDistributedVariable" or len(variable.value.values) == replicas
        devices = {copy.device for copy in variable.value.values}
        assert len(devices) == replicas and all("TPU:" in device for device in devices)
    for variable in variables if split else ():
        for slot in optimizer.slots(variable).values():
            rows, others = variable.shape[0], variable.shape[1:]
            assert {tuple(copy.shape) for copy in slot.value.values} == {(math.ceil(rows / replicas), *others)}

    # One all-reduce a step for each gradient, for the loss and for the token count, whatever the accumulation; with
    # split slots, one more for each variable's new weights; for Adafactor's scale, one of all sums of squares.
    shapes = [tuple(variable.shape) for variable in variables]
    squares = [(len(variables),)] if optimizer.scales_by_weights else []
    check_all_reduces(training, [(), (), *squares, *(2 if split else 1) * shapes], replicas)
    check_all_reduces(scoring, [(), ()], replicas)
    for program in (training, scoring):
        check_it_stays_on_the_cores(program)
        check_shapes_are_static(program)
    # It is the loop of steps that has been traced, with the settings of this variant.
    assert training.looped and not scoring.looped
    nested = [node for node in training.inner if node.op in LOOPS]  # the loss's loop over tokens, in the accumulation's
    assert bool(nested) == (accumulation > 1)
    assert (SKIP_ABOVE in constants_of(training.outer)) == (skip_loss_above is not None)
    hashed = [node for node in [*training.outer, *training.inner] if node.op == "BitwiseXor"]  # as dropout's masks are
    assert bool(hashed) == bool(dropout)
    return training


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_the_program_of_a_slice(described_strategy, tmp_path, variant):
    check_variant(described_strategy, SLICES.get(variant[:2], "v3-8"), tmp_path, variant)


@pytest.mark.slow
def test_the_fused_kernels_are_calls_within_the_program(described_strategy, tmp_path, monkeypatch):
    """One call forward and one backward for a block; whether they compile is the preflight's to say."""
    monkeypatch.setattr(attention_path, "installed", {"jax": "0.8.0"}.get)
    monkeypatch.setattr(kernel_shapes, "BLOCK", CONTEXT)
    monkeypatch.setattr(fused_kernels, "_kernels", lambda *shape: kernel_shapes.Kernels(b"forward", b"backward"))
    training = check_variant(described_strategy, "v5e-8", tmp_path, VARIANTS[0])
    calls = [node.attr["module"].s for node in training.outer if node.op == "XlaCallModule"]
    assert sorted(calls) == [b"backward", b"forward"]


def averages_in_its_loop(i, total):
    return i + 1, tf.distribute.get_replica_context().all_reduce("SUM", total)


def prints_in_its_loop(i, total):
    tf.print(total)
    return i + 1, total


def selects_in_its_loop(i, total):
    return i + 1, total + tf.reduce_sum(total[: tf.cast(total[0], tf.int32)])  # of a length that only the values say


def calls_python_in_its_loop(i, total):
    return i + 1, tf.ensure_shape(tf.numpy_function(lambda value: value, [total], tf.float32), [4])


def does_no_wrong(i, total):
    return i + 1, total + 1.0


@pytest.mark.parametrize(
    ("body", "caught_by"),
    [
        (averages_in_its_loop, "all-reduces"),
        (prints_in_its_loop, "cores"),
        (calls_python_in_its_loop, "cores shapes"),
        (selects_in_its_loop, "shapes"),
        (does_no_wrong, ""),
    ],
)
def test_the_checks_can_fail(described_strategy, body, caught_by):
    strategy = described_strategy("v3-8")
    graph = tf.Graph()
    with graph.as_default():

        def step():
            _, total = tf.while_loop(lambda i, _: i < 3, body, (0, tf.ones([4])), maximum_iterations=3)
            return tf.distribute.get_replica_context().all_reduce("SUM", total)

        strategy.run(step)
    program = program_of(graph)
    checks = {
        "all-reduces": lambda: check_all_reduces(program, [(4,)], 8),
        "cores": lambda: check_it_stays_on_the_cores(program),
        "shapes": lambda: check_shapes_are_static(program),
    }
    caught = []
    for name, check in checks.items():
        try:
            check()
        except AssertionError:
            caught.append(name)
    assert " ".join(caught) == caught_by


def test_each_of_16_hosts_gets_its_part(described_strategy, tmp_path, monkeypatch):
    """The strategy asks the run's own pipeline once for each host; what it asks for is, together, one host's batch."""
    session = described_session(described_strategy, "v3-128", tmp_path)
    asked = []

    def train_dataset(*arguments, **settings):
        asked.append((arguments, settings))
        return real(*arguments, **settings)

    real = datasets.train_dataset
    monkeypatch.setattr(sessions.datasets, "train_dataset", train_dataset)
    first, steps = 3, 3  # over the first end of the data
    with tf.Graph().as_default():
        session._batches().train(first)
    assert len(asked) == 16
    plan, rows = session.plan, {}
    for number, (arguments, settings) in enumerate(asked):
        host = settings["input_context"]
        assert (host.input_pipeline_id, host.num_input_pipelines) == (number, 16)
        elements = list(real(*arguments, **settings).take(steps * 8).as_numpy_iterator())
        for turn, element in enumerate(elements):  # a host's 8 cores take turns
            assert element["tokens"].shape == (MICROBATCH, CONTEXT + 1)
            for index, tokens in zip(element["index"], element["tokens"], strict=True):
                assert index // plan.global_batch == first + turn // 8 and index not in rows
                rows[index] = tokens
    arguments, settings = asked[0]
    alone = real(*arguments, **{**settings, "replicas": 1, "input_context": None})
    batches = list(alone.take(steps).as_numpy_iterator())
    assert first * plan.global_batch < session.manifest.part("train").records < (first + steps) * plan.global_batch
    assert sorted(rows) == np.concatenate([batch["index"] for batch in batches]).tolist()
    together = np.stack([rows[index] for index in sorted(rows)])
    np.testing.assert_array_equal(together, np.concatenate([batch["tokens"] for batch in batches]))
