"""The host's work in a run: one call, one record and one line per loop, and a watch on whatever may hang."""

import contextlib
import dataclasses
import io
import math
import signal
import threading
import types
from collections import Counter

import numpy as np
import pytest
import tensorflow as tf

import models
from pipeline.config import batch_plan
from pipeline.config.train_config import TrainConfig, schedule_of
from pipeline.devices import slices
from pipeline.devices.connect import Connection
from pipeline.errors import WorkFailedError
from pipeline.evaluation import protocol
from pipeline.optimizers.build import build
from pipeline.optimizers.config import AdamWConfig
from pipeline.runs.metrics import MetricsWriter, Progress
from pipeline.runs.run_directory import RunDirectory
from pipeline.training import preemption
from pipeline.training import session as sessions
from pipeline.training.loop import METRICS
from tests.pipeline.data.reading.test_datasets import CONTEXT, write_data

SIZE = {"layers": 1, "heads": 2, "width": 32, "context": CONTEXT, "vocabulary_size": 50_000}
MICROBATCH = 2


def session_on(connection, directory, model_config, optimizer_config, *, accumulation=1, **settings):
    """Returns a run in ``directory``/run over a small data set of 32 shards beside it; it validates on the first."""
    data = write_data(directory, shards=32, count=32 * 40)
    first = data.part.shards[0]
    data.manifest.parts["validation"] = dataclasses.replace(data.part, records=first.records, shards=(first,))
    train = TrainConfig(
        model="gpt2",
        optimizer="adamw",
        global_batch=connection.replicas * accumulation * MICROBATCH,
        microbatch=MICROBATCH,
        **{"steps": 100, "warmup_steps": 10, **settings},
    )
    plan = batch_plan.plan(
        global_batch=train.global_batch, replicas=connection.replicas, microbatch=MICROBATCH, context=CONTEXT
    )
    return sessions.Session(
        settings=train,
        model_config=model_config,
        optimizer_config=optimizer_config,
        plan=plan,
        manifest=data.manifest,
        data=data.path,
        connection=connection,
        directory=RunDirectory(str(directory / "run")),
    )


def trainer_of(session, checkpoints=None, metrics=None, after_evaluation=None):
    """Returns (trainer, model, optimizer), as ``Session.run`` makes them."""
    with session.connection.strategy.scope():
        model = models.build(session.model_config, compute_dtype=session.settings.compute_dtype)
        optimizer = build(session.optimizer_config, schedule_of(session.settings))
        optimizer.build(model.trainable_variables)
    trainer = session.trainer(model, optimizer, checkpoints, metrics, None, after_evaluation=after_evaluation)
    return trainer, model, optimizer


class Watch:
    """Replaces the heartbeat."""

    def __init__(self, hosts):
        self.hosts, self.now, self.kinds = hosts, None, []

    @contextlib.contextmanager
    def watching(self, kind, *, compiles=False):
        assert self.now is None, "the heartbeat watches one call at a time"
        self.now = kind
        self.kinds.append((kind, compiles))
        yield
        self.now = None


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of 8 steps on this machine, in loops of 3, with what it did: ``seen`` counts, ``calls`` lists."""
    watches = []
    seen, calls, records = Counter(), [], []
    connection = Connection(
        strategy=tf.distribute.get_strategy(),
        replicas=1,
        slice=slices.find("v3-8"),  # whose peak is stated, so that none is measured here
        kind="tpu",
        addresses=("10.0.0.2:8470", "10.0.0.3:8470"),
    )
    session = session_on(
        connection,
        tmp_path_factory.mktemp("run"),
        models.GPT2Config(**SIZE),
        AdamWConfig(learning_rate=1e-3),
        compute_dtype="float32",
        steps=8,
        warmup_steps=2,
        steps_per_loop=3,
        evaluate_every=6,
        checkpoint_every=4,
    )

    def noted(name, function=lambda *_: None):
        def call(*arguments):
            calls.append((name, watches[0].now))
            return function(*arguments)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sessions, "Heartbeat", lambda hosts: watches.append(Watch(hosts)) or watches[-1])
        trainer, *_ = trainer_of(
            session,
            checkpoints=types.SimpleNamespace(save=noted("save"), wait=noted("wait")),
            metrics=types.SimpleNamespace(write=records.append),
            after_evaluation=noted("after_evaluation"),
        )
    run_steps, run_evaluation, step = trainer._run_steps, trainer._run_evaluation, trainer._train_step

    def run_loop(batches, count):
        history = run_steps(batches, count)

        def fetch():
            seen["fetch"] += 1
            calls.append(("loop", watches[0].now))  # what hangs is the wait for the figures
            return history.numpy()

        calls.append(("loop", watches[0].now))
        seen["step"] += int(count)
        seen["python step, first loop" if seen["loop"] == 0 else "python step, later"] += seen.pop("python step", 0)
        seen["loop"] += 1
        return types.SimpleNamespace(numpy=fetch)

    def python_step(rows):
        seen["python step"] += 1
        return step(rows)

    trainer._run_steps, trainer._train_step = run_loop, python_step
    trainer._run_evaluation = noted("evaluate", run_evaluation)
    trainer._workers = types.SimpleNamespace(any=noted("ask", trainer._workers.any))
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert trainer.fit(0)
    seen["line"] = sum("loss" in line for line in said.getvalue().splitlines())
    return types.SimpleNamespace(
        seen=seen, calls=calls, records=records, watch=watches[0], addresses=connection.addresses, trainer=trainer
    )


def test_the_host_does_nothing_step_by_step(run):
    """The loops end at the steps 1, 3, 4, 6 and 8; each is one call, whose figures are fetched and told once."""
    assert run.seen["step"] == 8 and run.seen["loop"] == 5
    assert run.seen["fetch"] == len(run.records) == run.seen["line"] == 5
    assert run.seen["python step, first loop"] >= 1 and run.seen["python step, later"] == 0


def test_every_figure_belongs_to_its_step(run):
    """The rate is the one that the last step was taken with: 2 steps of warm-up, then a line to 0 after step 8."""
    rates = {record["step"]: record["learning_rate"] for record in run.records}
    assert rates == pytest.approx({1: 5e-4, 3: 1e-3 * 6 / 6, 4: 1e-3 * 5 / 6, 6: 1e-3 * 3 / 6, 8: 1e-3 * 1 / 6})
    speeds = [record["tokens_per_s"] for record in run.records]
    assert speeds[0] is None and all(speeds[1:])


def test_the_first_line_of_a_process_has_no_speed_of_another_one(run):
    written = len(run.records)
    run.trainer._after_steps(9, np.zeros([1, 20]), Progress(9, io.StringIO()))
    assert run.records[written]["tokens_per_s"] is run.records[written]["mfu"] is None
    assert run.trainer.record["tokens_per_s"] > 0, "the summary's, where nothing is left to do"


def test_a_skipped_step_has_the_rate_that_it_was_tried_with(run):
    """It is not an update: the next step has the same rate."""
    done = int(run.trainer._optimizer.iterations)
    skipped = np.zeros([1, 20])
    skipped[:, METRICS.index("skipped")] = 1
    for history, updates in ((np.zeros([1, 20]), done - 1), (skipped, done)):
        assert run.trainer._last_rate(history) == pytest.approx(1e-3 * (8 - updates) / 6)


def test_every_call_that_waits_for_the_devices_is_watched(run):
    assert run.watch.hosts == run.addresses
    expected = {
        "loop": {"the first step", "a loop of steps"},
        "evaluate": {"an evaluation"},
        "after_evaluation": {"what follows an evaluation"},
        "ask": {"waiting for the other workers", "an evaluation"},
        "save": {"a checkpoint"},
        "wait": {"writing the last checkpoint"},
    }
    for name, kinds in expected.items():
        assert {watched for called, watched in run.calls if called == name} == kinds, name
    # What compiles must not be what the loops' timeout is taken from.
    compiling = {"the first step", "an evaluation", "what follows an evaluation"}
    assert {kind for kind, compiles in run.watch.kinds if compiles} == compiling
    assert [kind for kind, _ in run.watch.kinds].count("the first step") == 1


def test_the_last_rate_is_known_on_several_replicas(tmp_path, virtual_devices):
    one_device = tf.distribute.ReductionToOneDevice()
    strategy = tf.distribute.MirroredStrategy(virtual_devices[:2], cross_device_ops=one_device)
    connection = Connection(strategy=strategy, replicas=2, slice=slices.find("v3-8"), kind="tpu")
    session = session_on(connection, tmp_path, models.GPT2Config(**SIZE), AdamWConfig(learning_rate=1e-3))
    trainer, _, optimizer = trainer_of(session)
    optimizer.iterations.assign(5)
    history = np.zeros((1, len(METRICS)))
    assert trainer._last_rate(history) == pytest.approx(optimizer.rate_after(4))


@pytest.mark.parametrize("packing", ["contiguous", "lines"])
def test_validation_is_divided_by_bytes_only_where_all_of_the_text_is_scored(tmp_path, packing):
    connection = Connection(strategy=tf.distribute.get_strategy(), replicas=1, slice=slices.find("v3-8"), kind="tpu")
    session = session_on(connection, tmp_path, models.GPT2Config(**SIZE), AdamWConfig(learning_rate=1e-3))
    data = session.manifest
    data.parts["validation"] = dataclasses.replace(data.parts["validation"], records=3, tail=(), utf8_bytes=400)
    session.manifest = dataclasses.replace(data, record=dataclasses.replace(data.record, packing=packing))
    trainer, *_ = trainer_of(session)
    trainer._run_evaluation = lambda batch: (100.0, 50.0)  # of two batches
    figures = trainer.evaluate()
    assert figures["nats_per_token"] == 2.0 and figures["tokens"] == 100
    trainer.record = {"step": 1, "tokens": 2, "loss": 3.0, "tokens_per_s": 4.0, "mfu": None}
    trainer.record |= {"validation.nats_per_token": 2.0, "validation.bits_per_byte": 0.7}  # as older ones were kept
    summary = session.summary(trainer)["validation"]
    if packing == "lines":
        assert "bits_per_byte" not in figures
        assert summary == {"nats_per_token": 2.0, "left_out": protocol.LEFT_OUT}
    else:
        assert figures["bits_per_byte"] == pytest.approx(200 / math.log(2) / 400)
        assert summary == {"nats_per_token": 2.0, "bits_per_byte": 0.7}


@pytest.fixture
def runnable(tmp_path, monkeypatch):
    """A function that returns a session whose ``run`` works, given its settings."""
    tokenizer = types.SimpleNamespace(data=b"{}", end_of_text=0, encode=lambda text: [1], decode=lambda ids: " cat")
    monkeypatch.setattr(sessions, "read_tokenizer", lambda directory: tokenizer.data)
    monkeypatch.setattr(sessions, "Tokenizer", lambda name, data: tokenizer)

    def make(**settings):
        return session_on(
            Connection(strategy=tf.distribute.get_strategy(), replicas=1, slice=slices.find("v3-8"), kind="tpu"),
            tmp_path,
            models.GPT2Config(**SIZE),
            AdamWConfig(learning_rate=1e-3),
            compute_dtype="float32",
            warmup_steps=1,
            steps_per_loop=3,
            wandb="off",
            **settings,
        )

    return make


def test_what_comes_before_and_after_the_loop_is_watched_too(runnable, monkeypatch):
    watch, watched = Watch(()), {}

    def noted(name, function):
        def call(*arguments):
            watched.setdefault(name, set()).add(watch.now)
            return function(*arguments)

        return call

    monkeypatch.setattr(sessions, "Heartbeat", lambda hosts: watch)
    for owner, name in (
        (sessions.Checkpoints, "restore_newest"),
        (sessions.Workers, "barrier"),
        (sessions.Workers, "check_same_start"),
        (sessions.SampleWriter, "write"),
    ):
        monkeypatch.setattr(owner, name, noted(name, getattr(owner, name)))
    assert runnable(steps=2, evaluate_every=0, sample_prompt="the").run() == 0
    assert watched == {
        "restore_newest": {"restoring the newest checkpoint"},
        "barrier": {"restoring the newest checkpoint", "waiting for the other workers"},
        "check_same_start": {"restoring the newest checkpoint"},
        "write": {"the last sample"},
    }


@pytest.mark.parametrize("stopped", [True, False], ids=["stopped", "finished"])
def test_a_late_signal_ends_a_finished_run_at_once_but_lets_a_stopped_one_wait_for_the_others(
    runnable, monkeypatch, stopped
):
    """Supervisors signal all workers; a worker that it ends would leave the others waiting."""
    ended = []

    def asked(_, said):
        if stopped and not said:
            signal.raise_signal(signal.SIGTERM)
        return said

    def met(_):
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(sessions.Workers, "any", asked)
    before = signal.signal(signal.SIGTERM, lambda *_: ended.append("here the process would end"))
    try:
        session = runnable(steps=4, evaluate_every=0)
        monkeypatch.setattr(
            sessions.Workers, "barrier", lambda _: monkeypatch.setattr(sessions.Workers, "barrier", met)
        )
        assert session.run() == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    assert bool(ended) != stopped


@pytest.mark.parametrize(
    "evaluate_every, asked_before, answers",
    [(0, 0, [False, True]), (3, 1, [False, False, True, True])],
    ids=["between loops", "between an evaluation's batches"],
)
def test_a_signal_while_the_workers_are_asked_stops_none_of_them_alone(runnable, evaluate_every, asked_before, answers):
    """The others have not heard of it: they take the next steps, whose sums need this worker too."""
    session = runnable(evaluate_every=evaluate_every)
    said, steps = [], []

    def any_of_them(this_one):
        if len(said) == asked_before:
            signal.raise_signal(signal.SIGTERM)
        said.append(this_one)
        return this_one

    session.workers = types.SimpleNamespace(any=any_of_them)
    trainer, *_ = trainer_of(
        session,
        checkpoints=types.SimpleNamespace(save=lambda *_: None, wait=lambda: None),
        metrics=types.SimpleNamespace(write=lambda record: steps.append(record["step"])),
    )
    with preemption.signals_set(trainer.stop):
        assert not trainer.fit(0)
    assert said == answers and steps == [1, 3]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_each_signal_that_ends_a_process_lets_the_run_save(number):
    stop, before = threading.Event(), signal.getsignal(number)
    with preemption.signals_set(stop):
        signal.raise_signal(number)
        assert stop.is_set()
    assert signal.getsignal(number) is before


def test_a_run_under_nohup_goes_on():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with preemption.signals_set(stop := threading.Event()):
            signal.raise_signal(signal.SIGHUP)
            assert not stop.is_set()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_disk_that_fills_up_is_one_line_with_the_newest_checkpoint(runnable, monkeypatch):
    session = runnable(steps=9, evaluate_every=0, checkpoint_every=3)
    write = MetricsWriter.write

    def full_at_6(self, record):
        if record["step"] == 6:
            raise tf.errors.ResourceExhaustedError(None, None, "run/metrics.jsonl; No space left on device")
        write(self, record)

    monkeypatch.setattr(MetricsWriter, "write", full_at_6)
    said = "^run/metrics.jsonl: No space left on device; the newest whole checkpoint is of step 3; with room, the same"
    with pytest.raises(WorkFailedError, match=said):
        session.run()
