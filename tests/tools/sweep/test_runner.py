"""One worker: what it lost to another machine, what it is told, and what it tells the runs that it starts."""

import dataclasses
import subprocess
import sys
import threading
import time

import pytest

from tools.sweep import ledger as ledgers
from tools.sweep import runner as runners
from tools.sweep.cells import Base, Cell
from tools.sweep.ledger import DONE, FAILED, Ledger

BASE = Base(gin_files=(), gin_params=(), data="", tpu=None)
CELL = Cell(key="cell", overrides={"train.seed": 1}, arguments=(), run=None, program="")


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
    runners.Runner(BASE, workers[0], "gs://corpus/sweep").run([CELL])
    other.join()
    assert len(started) == 1
    assert workers[0].read(CELL.key)["state"] == DONE
    assert "taken over by another worker" in capsys.readouterr().out


def test_a_signal_that_comes_while_a_run_is_being_started_reaches_it(started, tmp_path, monkeypatch):
    runner, start = runners.Runner(BASE, Ledger(str(tmp_path / "ledger")), str(tmp_path)), runners.subprocess.Popen

    def start_and_signal(command, **options):
        run = start(command, **options)
        runner._stop(runners.signal.SIGTERM, None)  # before the worker knows of the run
        return run

    monkeypatch.setattr(runners.subprocess, "Popen", start_and_signal)
    runner.run([CELL])
    assert [process.returncode for process in started] == [-runners.signal.SIGTERM]
    assert runner.stopped == runners.signal.SIGTERM


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"])
def test_a_signal_that_came_too_late_to_stop_anything_is_none(started, tmp_path, monkeypatch, number):
    runner = runners.Runner(BASE, Ledger(str(tmp_path / "ledger")), str(tmp_path))
    number = runners.signal.Signals[number]

    def run_process(cell, claim):
        runners.signal.raise_signal(number)
        return 0, tmp_path / "log"

    monkeypatch.setattr(runner, "_run_process", run_process)
    monkeypatch.setattr(runner, "_summary", lambda cell: SUMMARY)
    runner.run([CELL])
    assert not runner.stopped and runner._ledger.read(CELL.key)["state"] == DONE
    others = [dataclasses.replace(CELL, key=key) for key in ("second", "third")]
    runner.run([CELL, *others])
    assert runner.stopped == number and [runner._ledger.read(cell.key) is None for cell in others] == [False, True]


WANDB = """
import wandb
run = wandb.init(mode='offline', settings=wandb.Settings(silent=True))
raise SystemExit(f'{run.group} {run.name}')
"""


@pytest.mark.parametrize("started", [(sys.executable, "-c", WANDB)], indirect=True)
def test_weights_and_biases_sees_a_group_a_sweep_and_a_name_a_cell(started, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    ledger = Ledger(str(tmp_path / "rates" / "ledger"))
    runners.Runner(BASE, ledger, str(tmp_path / "rates")).run([CELL])
    assert len(started) == 1, "what fails by itself is not tried again"
    assert ledger.read(CELL.key)["state"] == FAILED
    assert ledger.read(CELL.key)["reason"] == "rates train.seed=1"
