"""One worker: what it lost to another machine, what it is told, and what it tells the runs that it starts."""

import dataclasses
import subprocess
import sys
import threading
import time

import pytest

from tools.sweep import ledger as ledgers
from tools.sweep import runner as runners
from tools.sweep.ledger import DONE, FAILED, Ledger

CELL = runners.Job(key="cell", label="train.seed=1", overrides={"train.seed": 1}, arguments=())

SUMMARY = {"train": {"nats_per_token": 1.0}, "steps": 1, "tokens_seen": 1, "parameters": 1}
SLEEP = ("sleep", "120")


@pytest.fixture
def started(monkeypatch, request):
    """Makes the worker start a long sleep, or its parameter, instead of a training; yields the processes."""
    original, processes = subprocess.Popen, []

    def start(command, **options):
        processes.append(original(getattr(request, "param", SLEEP), **options))
        return processes[-1]

    monkeypatch.setattr(runners.subprocess, "Popen", start)
    monkeypatch.setattr(runners, "RESTART_SECONDS", 0)
    monkeypatch.setattr(runners, "WAIT_SECONDS", 0.1)
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def test_a_cell_that_another_machine_took_over_is_not_started_again(started, gcs, tmp_path, monkeypatch, capsys):
    workers = []
    for machine in "ab":
        (tmp_path / machine).mkdir()
        monkeypatch.setattr(ledgers.tempfile, "gettempdir", lambda machine=machine: str(tmp_path / machine))
        workers.append(Ledger("gs://corpus/sweep/ledger"))
    lease = ledgers.LEASE_SECONDS
    monkeypatch.setattr(ledgers, "LEASE_SECONDS", 0.0)  # as if the first machine had slept
    monkeypatch.setattr(ledgers, "RENEWALS", 1e9)  # and now renews its lease as soon as it can

    def other_machine():
        while not started or (claim := workers[1].claim(CELL.key, {})) is None:
            time.sleep(0.05)
        ledgers.LEASE_SECONDS = lease
        started[0].wait(timeout=60)  # the first worker ends its run when it sees that it has lost the cell
        time.sleep(1)
        workers[1].end(claim, DONE)

    other = threading.Thread(target=other_machine)
    other.start()
    runners.Runner([], workers[0], "gs://corpus/sweep").run([CELL])
    other.join()
    assert len(started) == 1
    assert workers[0].read(CELL.key)["state"] == DONE
    assert "taken over by another worker" in capsys.readouterr().out


def test_a_signal_that_comes_while_a_run_is_being_started_reaches_it(started, tmp_path, monkeypatch):
    runner, start = runners.Runner([], Ledger(str(tmp_path / "ledger")), str(tmp_path)), runners.subprocess.Popen

    def start_and_signal(command, **options):
        run = start(command, **options)
        runner._stop(runners.signal.SIGTERM, None)  # before the worker knows of the run
        return run

    monkeypatch.setattr(runners.subprocess, "Popen", start_and_signal)
    runner.run([CELL])
    assert [process.returncode for process in started] == [-runners.signal.SIGTERM]
    assert runner.stopped == runners.signal.SIGTERM


@pytest.mark.parametrize("started", [("true",)], indirect=True)
@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"])
def test_a_signal_that_came_too_late_to_stop_anything_is_none(started, tmp_path, monkeypatch, number):
    runner = runners.Runner([], Ledger(str(tmp_path / "ledger")), str(tmp_path))
    number = runners.signal.Signals[number]

    def summary(job):
        runners.signal.raise_signal(number)
        return SUMMARY

    monkeypatch.setattr(runner, "_summary", summary)
    runner.run([CELL])
    assert not runner.stopped and runner.ledger.read(CELL.key)["state"] == DONE
    others = [dataclasses.replace(CELL, key=key) for key in ("second", "third")]
    runner.run([CELL, *others])
    assert runner.stopped == number and [runner.ledger.read(cell.key) is None for cell in others] == [False, True]


def test_a_worker_that_finds_all_done_says_so(started, tmp_path, capsys):
    runner = runners.Runner([], Ledger(str(tmp_path / "ledger")), str(tmp_path))
    cells = [dataclasses.replace(CELL, key=key) for key in ("first", "second", "third")]
    for cell, state in zip(cells, (DONE, FAILED, DONE), strict=True):
        runner.ledger.end(runner.ledger.claim(cell.key, {}), state)
    runner.run(cells)
    assert not started and "2/3  done  by other workers, or before" in capsys.readouterr().out


def test_some_run_at_a_time_and_all_are_told_to_stop(started, tmp_path):
    runner = runners.Runner([], Ledger(str(tmp_path / "ledger")), str(tmp_path), parallel=2)
    ended = threading.Event()

    def stop_two() -> None:
        while len(started) < 2 and not ended.wait(0.01):
            pass
        if not ended.is_set():  # or it would end pytest
            runners.os.kill(runners.os.getpid(), runners.signal.SIGTERM)

    stopper = threading.Thread(target=stop_two)
    stopper.start()
    try:
        runner.run([dataclasses.replace(CELL, key=key) for key in ("first", "second", "third")])
    finally:
        ended.set()
        stopper.join()
    assert [process.returncode for process in started] == [-runners.signal.SIGTERM] * 2
    assert [runner.ledger.read(key) for key in ("third",)] == [None]
    assert {runner.ledger.read(key)["state"] for key in ("first", "second")} == {"stopped"}


@pytest.mark.parametrize("started", [("true",)], indirect=True)
def test_a_run_that_ends_too_early_is_started_again_and_not_for_ever(started, tmp_path, monkeypatch):
    monkeypatch.setattr(runners, "RESTARTS", 2)
    ledger = Ledger(str(tmp_path / "ledger"))
    runners.Runner([], ledger, str(tmp_path)).run([CELL])
    assert len(started) == 3 and ledger.read(CELL.key)["reason"] == "ended 3 times before its end"
    runners.Runner([], ledger, str(tmp_path)).run([CELL])
    assert len(started) == 3, "it has failed"
    runners.Runner([], ledger, str(tmp_path), again=(FAILED,)).run([CELL])
    assert len(started) == 6


WANDB = """
import wandb
run = wandb.init(mode='offline', settings=wandb.Settings(silent=True))
raise SystemExit(f'{run.group} {run.name}')
"""


@pytest.mark.parametrize("started", [(sys.executable, "-c", WANDB)], indirect=True)
def test_weights_and_biases_sees_a_group_a_sweep_and_a_name_a_cell(started, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    ledger = Ledger(str(tmp_path / "rates" / "ledger"))
    runners.Runner([], ledger, str(tmp_path / "rates")).run([CELL])
    assert len(started) == 1, "what fails by itself is not tried again"
    assert ledger.read(CELL.key)["state"] == FAILED
    assert ledger.read(CELL.key)["reason"] == "rates train.seed=1"
