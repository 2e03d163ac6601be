"""A whole session: what is watched around the loop, signals, full disks, and plans for other devices."""

import signal
import threading
import types

import pytest
import tensorflow as tf

import models
from pipeline import stop_signals
from pipeline.devices import slices
from pipeline.devices.connect import Connection
from pipeline.errors import UserError, WorkFailedError, data_fault
from pipeline.optimizers.config import AdamWConfig
from pipeline.runs.metrics_writer import MetricsWriter
from pipeline.training import session as sessions
from tests.helpers.sessions import SIZE, Watch, session_on, trainer_of


def session(planned, found):
    others = dict.fromkeys(
        ("configuration", "settings", "model_config", "optimizer_config", "manifest", "data", "directory")
    )
    plan = types.SimpleNamespace(replicas=planned)
    return sessions.Session(plan=plan, connection=types.SimpleNamespace(replicas=found, kind="tpu"), **others)


def test_a_batch_for_other_devices_than_there_are_is_refused():
    """Such as four device files of GPUs beside a TensorFlow that cannot use them."""
    assert session(8, 8).plan.replicas == 8
    with pytest.raises(UserError, match=r"planned for 8 replicas, and TensorFlow has 4 \(tpu\)"):
        session(8, 4)


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
    trainer = trainer_of(
        session,
        checkpoints=types.SimpleNamespace(save=lambda *_: None, wait=lambda: None),
        metrics=types.SimpleNamespace(write=lambda *loop: steps.append(loop[-1]["step"]), flush=lambda: None),
    )
    with stop_signals.set_by_signals(trainer.runtime.stop):
        assert not trainer.fit()
    assert said == answers and steps == [1, 3]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_each_signal_that_ends_a_process_lets_the_run_save_and_says_so(number, capfd):
    stop, before = threading.Event(), signal.getsignal(number)
    with stop_signals.set_by_signals(stop):
        signal.raise_signal(number)
        assert stop.is_set()
    assert "stopping once the steps that run are saved" in capfd.readouterr().err
    assert signal.getsignal(number) is before


def test_a_run_under_nohup_goes_on():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signals.set_by_signals(stop := threading.Event()):
            signal.raise_signal(signal.SIGHUP)
            assert not stop.is_set()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_disk_that_fills_up_is_one_line_with_the_newest_checkpoint(runnable, monkeypatch):
    session = runnable(steps=9, evaluate_every=0, checkpoint_every=3)
    write = MetricsWriter.write

    def full_at_6(self, *records):
        if records[-1]["step"] == 6:
            raise tf.errors.ResourceExhaustedError(None, None, "run/metrics.jsonl; No space left on device")
        write(self, *records)

    monkeypatch.setattr(MetricsWriter, "write", full_at_6)
    said = "^run/metrics.jsonl: No space left on device; the newest whole checkpoint is of step 3; with room, the same"
    with pytest.raises(WorkFailedError, match=said):
        session.run()


def test_a_signal_right_after_the_last_step_leaves_nothing_out_of_the_summary(runnable, monkeypatch):
    fit = sessions.Trainer.fit

    def then_stopped(trainer):
        finished = fit(trainer)
        trainer.runtime.stop.set()
        return finished

    monkeypatch.setattr(sessions.Trainer, "fit", then_stopped)
    session = runnable(steps=2, evaluate_every=0)
    assert session.run() == 0
    assert session.directory.read_json("summary.json")["validation"]["nats_per_token"] > 0


def test_a_damaged_checkpoint_is_not_called_a_damaged_data_set():
    table = "Unable to open table file run/step-3: DATA_LOSS: not an sstable (bad magic number)"
    assert data_fault(tf.errors.DataLossError(None, None, table)) is None
    record = "{{function_node x}} corrupted record at 12 (Is this even a TFRecord file?)"
    assert "corrupted record at 12" in data_fault(tf.errors.DataLossError(None, None, record))
