"""The host's work in a run: one call, one write and one line per loop, and a watch on whatever may hang."""

import dataclasses
import io
import itertools
import math
import time
import types
from collections import Counter

import numpy as np
import pytest
import tensorflow as tf

import models
from pipeline.devices import slices
from pipeline.devices.connect import Connection
from pipeline.evaluation import comparability
from pipeline.optimizers.config import AdamWConfig
from pipeline.progress import Progress
from pipeline.training import session as sessions
from pipeline.training.hooks import METRICS, StepInfo
from pipeline.training.hooks.best import KeepBest
from pipeline.training.hooks.evaluation import Evaluation
from pipeline.training.hooks.samples import WriteSamples
from pipeline.training.hooks.training_record import TrainingRecord
from tests.helpers.sessions import SIZE, Watch, hook_of, session_on, trainer_of


def session_of_the_run(directory):
    """Returns a run of 8 steps on this machine, in loops of 3, with all that may follow a loop."""
    return session_on(
        Connection(
            strategy=tf.distribute.get_strategy(),
            replicas=1,
            slice=slices.find("v3-8"),  # whose peak is stated, so that none is measured here
            kind="tpu",
            addresses=("10.0.0.2:8470", "10.0.0.3:8470"),
        ),
        directory,
        models.GPT2Config(**SIZE),
        AdamWConfig(learning_rate=1e-3),
        compute_dtype="float32",
        steps=8,
        warmup_steps=2,
        steps_per_loop=3,
        evaluate_every=6,
        checkpoint_every=4,
        keep_best=True,
        sample_prompt="the",
    )


def metrics_that(write):
    """Returns a MetricsWriter that only writes records, and those as it is told."""
    return types.SimpleNamespace(write=write, text=lambda *_: None, flush=lambda: None)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """That run, made, with what it did: ``seen`` counts, ``calls`` lists."""
    seen, calls, records, histories, watches = Counter(), [], [], [], []
    session = session_of_the_run(tmp_path_factory.mktemp("run"))

    def noted(name, function=lambda *_: None):
        def call(*arguments):
            calls.append((name, watches[0].now))
            return function(*arguments)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sessions, "Heartbeat", lambda hosts: watches.append(Watch(hosts)) or watches[-1])
        trainer = trainer_of(
            session,
            checkpoints=types.SimpleNamespace(save=noted("save"), wait=noted("wait")),
            metrics=metrics_that(noted("record", lambda *loop: records.append(loop))),
        )
    evaluation = hook_of(trainer, Evaluation)
    run_steps, run_evaluation, step = trainer._run_steps, evaluation.run_step, trainer._train_step

    def run_loop(batches, count):
        history = run_steps(batches, count)

        def fetch():
            seen["fetch"] += 1
            calls.append(("loop", watches[0].now))  # what hangs is the wait for the figures
            histories.append(history.numpy())
            return histories[-1]

        calls.append(("loop", watches[0].now))
        seen["step"] += int(count)
        seen["python step, first loop" if seen["loop"] == 0 else "python step, later"] += seen.pop("python step", 0)
        seen["loop"] += 1
        return types.SimpleNamespace(numpy=fetch)

    def python_step(rows):
        seen["python step"] += 1
        return step(rows)

    trainer._run_steps, trainer._train_step = run_loop, python_step
    evaluation.run_step = noted("evaluate", run_evaluation)
    hook_of(trainer, KeepBest).offer = noted("offer")
    hook_of(trainer, WriteSamples)._writer = types.SimpleNamespace(write=noted("sample", lambda: "the cat"))
    runtime, output = trainer.runtime, io.StringIO()
    runtime.workers = types.SimpleNamespace(any=noted("ask", runtime.workers.any))
    runtime.progress = Progress(session.settings.steps, stream=output)
    assert trainer.fit()
    seen["line"] = sum("loss" in line for line in output.getvalue().splitlines())
    return types.SimpleNamespace(
        seen=seen,
        calls=calls,
        records=records,
        histories=histories,
        last=dict(trainer.state.record),
        watch=watches[0],
        addresses=session.connection.addresses,
        trainer=trainer,
    )


def test_the_host_does_nothing_step_by_step(run):
    """The loops end at the steps 1, 3, 4, 6 and 8; each is one call, whose figures are fetched and told once."""
    assert run.seen["step"] == 8 and run.seen["loop"] == 5
    assert run.seen["fetch"] == len(run.records) == run.seen["line"] == 5
    assert run.seen["python step, first loop"] >= 1 and run.seen["python step, later"] == 0


def test_every_figure_belongs_to_its_step(run):
    """The rate is the one that a step was taken with: 2 steps of warm-up, then a line to 0 after step 8."""
    records = [record for loop in run.records[:5] for record in loop]
    assert [record["step"] for record in records] == list(range(1, 9))
    assert [record["learning_rate"] for record in records] == pytest.approx(
        [5e-4, 1e-3, *(1e-3 * left / 6 for left in (6, 5, 4, 3, 2, 1))]
    )
    rows = np.concatenate(run.histories)
    for column in ("loss", "grad_norm"):
        told = [np.float32(record[column]) for record in records]
        assert told == rows[:, METRICS.index(column)].tolist() and len(set(told)) == 8, column
    times = [record["time"] for record in records]
    assert times == sorted(times) and time.time() - 600 < times[0] < times[-1] <= time.time()
    speeds = [record.get("tokens_per_second") for record in records]
    assert [step for step, speed in enumerate(speeds, 1) if speed] == [3, 4, 6, 8], (
        "the last of each loop but the first"
    )


def test_the_record_of_a_checkpoint_holds_the_mean_of_the_last_loop(run):
    losses = [record["loss"] for record in run.records[4]]
    assert run.last["loss"] == pytest.approx(sum(losses) / 2) and run.last["step"] == 8


def test_what_follows_a_loop_comes_in_one_order(run):
    """After the steps 1, 3, 4, 6 and 8: a record holds the evaluation before it, a checkpoint the record before it."""
    effects = [name for name, _ in itertools.groupby(name for name, _ in run.calls if name not in ("loop", "ask"))]
    assert effects[:8] == ["record", "save", "evaluate", "offer", "record", "sample", "record", "save"]


def test_the_first_line_of_a_process_has_no_speed_of_another_one(run):
    written = len(run.records)
    run.trainer._after_steps(np.zeros([1, 20]), seconds=None)
    assert run.records[written][-1]["tokens_per_second"] is run.records[written][-1]["mfu"] is None
    assert run.trainer.state.record["tokens_per_second"] > 0, "the summary's, where nothing is left to do"


def test_a_skipped_step_has_the_rate_that_it_was_tried_with(run):
    """It is not an update: the next step has the same rate."""
    done = int(run.trainer.state.optimizer.iterations)
    skipped = np.zeros([1, 20])
    skipped[:, METRICS.index("skipped")] = 1
    for history, updates in ((np.zeros([1, 20]), done - 1), (skipped, done)):
        (rate,) = hook_of(run.trainer, TrainingRecord).rates(StepInfo(8, history, None))
        assert rate == pytest.approx(1e-3 * (8 - updates) / 6)


def test_every_call_that_waits_for_the_devices_is_watched(run):
    assert run.watch.hosts == run.addresses
    expected = {
        "loop": {"the first step", "a loop of steps"},
        "evaluate": {"an evaluation"},
        "offer": {"saving the best weights"},
        "sample": {"a sample"},
        "ask": {"waiting for the other workers", "an evaluation"},
        "save": {"a checkpoint"},
        "wait": {"writing the last checkpoint"},
    }
    for name, kinds in expected.items():
        assert {watched for called, watched in run.calls if called == name} == kinds, name
    # What compiles must not be what the loops' timeout is taken from.
    compiling = {"the first step", "an evaluation", "saving the best weights", "a sample"}
    assert {kind for kind, compiles in run.watch.kinds if compiles} == compiling
    assert [kind for kind, _ in run.watch.kinds].count("the first step") == 1


def test_the_last_rate_is_known_on_several_replicas(tmp_path, virtual_devices):
    one_device = tf.distribute.ReductionToOneDevice()
    strategy = tf.distribute.MirroredStrategy(virtual_devices[:2], cross_device_ops=one_device)
    connection = Connection(strategy=strategy, replicas=2, slice=slices.find("v3-8"), kind="tpu")
    session = session_on(connection, tmp_path, models.GPT2Config(**SIZE), AdamWConfig(learning_rate=1e-3))
    trainer = trainer_of(session)
    optimizer = trainer.state.optimizer
    optimizer.iterations.assign(5)
    info = StepInfo(5, np.zeros((1, len(METRICS))), None)
    assert hook_of(trainer, TrainingRecord).rates(info) == [pytest.approx(optimizer.rate_after(4))]


@pytest.mark.parametrize("packing", ["contiguous", "lines"])
def test_validation_is_divided_by_bytes_only_where_all_of_the_text_is_scored(tmp_path, packing):
    connection = Connection(strategy=tf.distribute.get_strategy(), replicas=1, slice=slices.find("v3-8"), kind="tpu")
    session = session_on(connection, tmp_path, models.GPT2Config(**SIZE), AdamWConfig(learning_rate=1e-3))
    data = session.manifest
    data.parts["validation"] = dataclasses.replace(data.parts["validation"], records=3, tail=(), utf8_bytes=400)
    session.manifest = dataclasses.replace(data, record=dataclasses.replace(data.record, packing=packing))
    trainer = trainer_of(session)
    evaluation = hook_of(trainer, Evaluation)
    evaluation.run_step = lambda batch: (100.0, 50.0)  # of two batches
    figures = evaluation.evaluate()
    assert figures["nats_per_token"] == 2.0 and figures["tokens"] == 100
    # As older ones were kept.
    trainer.state.record = {"validation.nats_per_token": 2.0, "validation.bits_per_byte": 0.7}
    summary = evaluation.summary()["validation"]
    if packing == "lines":
        assert "bits_per_byte" not in figures
        assert summary == {"nats_per_token": 2.0, "left_out": comparability.LEFT_OUT}
    else:
        assert figures["bits_per_byte"] == pytest.approx(200 / math.log(2) / 400)
        assert summary == {"nats_per_token": 2.0, "bits_per_byte": 0.7}
