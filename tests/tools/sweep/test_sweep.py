"""Whole sweeps of real runs: killed at random, shared by two workers, with cells that fail; and what they write."""

import csv
import json
import os
import random
import signal
import time

import pytest

CELLS, STEPS = 4, 6  # of each cell

RATE = "SGD.learning_rate"
DETERMINISTIC = ("cell", RATE, "train.seed", "state", "validation", "train_loss", "steps", "tokens")


def table(directory):
    rows = list(csv.DictReader((directory / "sweep.csv").open()))
    return [{name: row[name] for name in DETERMINISTIC} for row in rows]


def ended(directory):
    """Returns how often each cell's training ended: the last thing it prints is its summary."""
    logs = (directory / "cells").glob("*.log")
    return {path.stem: path.read_text().count('"tokens_seen"') for path in logs}


def children(process):
    with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
        return [int(number) for number in file.read().split()]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    return tmp_path_factory.mktemp("unbroken")


@pytest.mark.slow
def test_two_workers_share_the_cells(sweep_command, start, unbroken):
    workers = [start(sweep_command(unbroken, f"--worker={number}/2")) for number in range(2)]
    output = [worker.communicate(timeout=900)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], output
    assert all("4 cells" in text and "2/2    done" in text for text in output), output
    assert list(ended(unbroken).values()) == [1] * CELLS
    assert [json.loads(entry)["attempt"] for entry in _entries(unbroken)] == [1] * CELLS
    done = [sum("  done  " in line for line in text.splitlines()) for text in output]
    assert sum(done) == CELLS and min(done) >= 1, output
    assert [row["state"] for row in table(unbroken)] == ["done"] * CELLS
    assert {row[RATE] for row in table(unbroken)} == {"0.01", "0.03"}


@pytest.mark.slow
def test_killed_five_times_it_ends_with_the_same_table(sweep_command, start, unbroken, records, tmp_path):
    """SIGKILL takes the worker, the run, or both, whenever the steps taken have reached a random number."""
    chance = random.Random(os.environ.get("PYTEST_XDIST_TESTRUNUID", ""))
    moments = sorted(chance.sample(range(1, CELLS * STEPS - 1), 5))
    process, kills = start(sweep_command(tmp_path, steps=STEPS)), []
    deadline = time.monotonic() + 900
    for moment in moments:
        while sum(map(len, records(tmp_path).values())) < moment:
            assert time.monotonic() < deadline
            if process.poll() is not None:
                assert process.returncode == 0, process.communicate()[0]
                break
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.3))
        victims = chance.choice(["worker", "run", "both"])
        runs = children(process) if process.poll() is None else []
        for run in runs if victims != "worker" else []:
            os.kill(run, signal.SIGKILL)
        if victims != "run":
            process.kill()
            process.wait()
            process = start(sweep_command(tmp_path, steps=STEPS))
        kills.append((moment, victims, len(runs)))
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, (output, kills)
    assert "4/4  done" in output
    assert table(tmp_path) == table(unbroken), kills
    assert list(ended(tmp_path).values()) == [1] * CELLS, kills
    assert all(steps == list(range(1, STEPS + 1)) for steps in records(tmp_path).values()), kills
    attempts = sum(entry["attempt"] for entry in map(json.loads, _entries(tmp_path)))
    taken_again = sum(victims != "run" and runs > 0 for _, victims, runs in kills)
    assert attempts > CELLS or not taken_again, kills


def _entries(directory):
    return [path.read_text() for path in (directory / "ledger").glob("*.json")]


@pytest.mark.slow
def test_finished_cells_are_not_run_again_under_another_name(sweep_command, start, unbroken):
    before = {path: path.stat().st_mtime_ns for path in (unbroken / "cells").rglob("*")}
    same = ["--grid=model=[algpt2]", "--grid=train.clip_norm=[1.0]"]
    process = start(sweep_command(unbroken, *same))
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert {path: path.stat().st_mtime_ns for path in (unbroken / "cells").rglob("*")} == before


@pytest.mark.slow
def test_machines_that_share_a_bucket_only_run_each_cell_once(sweep_command, start, gcs, tmp_path):
    workers = []
    for number in range(2):
        (tmp_path / f"machine{number}").mkdir()
        command = sweep_command("gs://corpus/sweep", f"--worker={number}/2", "--gin_param=train.seed=5")
        command = [flag for flag in command if flag != "--seeds=2"]
        workers.append(start(command, **gcs.environment | {"TMPDIR": str(tmp_path / f"machine{number}")}))
    output = [worker.communicate(timeout=900)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], output
    logs = [path.read_text() for path in tmp_path.rglob("*.log")]
    assert len(logs) == 2 and all(log.count('"tokens_seen"') == 1 for log in logs), output
    assert gcs.objects()["sweep/sweep.csv"].decode().count("done") == 2


@pytest.mark.slow
def test_a_stopped_sweep_goes_on(sweep_command, start, records, tmp_path):
    command = [*sweep_command(tmp_path), "--gin_param=train.steps=100000"]
    process = start(command)
    deadline = time.monotonic() + 300
    while not any(records(tmp_path).values()):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM and "stopped; the same command continues" in output
    (entry,) = map(json.loads, _entries(tmp_path))
    assert entry["state"] == "stopped"
    (cell,) = (path for path in (tmp_path / "cells").iterdir() if path.is_dir())
    assert any((cell / "checkpoints").iterdir()), "the run has saved"


@pytest.mark.slow
def test_a_failing_cell_is_recorded_and_the_rest_go_on(sweep_command, start, run_module, tmp_path):
    listed = tmp_path / "cells.jsonl"
    listed.write_text('{"SGD.learning_rate": 1e30, "max_skipped_steps": 1}\n{"SGD.learning_rate": 0.1}\n')
    command = [flag for flag in sweep_command(tmp_path / "sweep") if not flag.startswith(("--grid", "--seeds"))]
    process = start([*command, "--gin_param=train.optimizer=sgd", f"--list={listed}"])
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1, output
    rows = list(csv.DictReader((tmp_path / "sweep" / "sweep.csv").open()))
    assert sorted((row["SGD.learning_rate"], row["state"]) for row in rows) == [("0.1", "done"), ("1e+30", "failed")]
    (failed,) = (row for row in rows if row["state"] == "failed")
    assert "skipped" in failed["reason"] and failed["reason"] in output
    again = run_module("tools.sweep", f"--run_dir={tmp_path / 'sweep'}", "--table")
    assert again.returncode == 1 and "1e+30" in again.stdout


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--grid=model"], "--grid=model: expected NAME=[VALUE,VALUE]"),
        (["--worker=2/2"], "--worker=2/2: expected I/N"),
        (["--random=3"], "--random=N and --sample go together"),
        (["--grid=train.steps=[3,x]"], "train.steps = 'x': expected a whole number"),
        (["--grid=seed=[1]", "--grid=train.seed=[2]"], "train.seed is in --grid or --sample twice"),
        (["--grid=stepz=[1]"], "--grid: train.stepz=1: train has no parameter 'stepz' (did you mean 'steps'?)"),
        (
            ["--sample=SGD.lr=[1]", "--random=1"],
            "--sample: SGD.lr=1: SGD has no parameter 'lr'; it has",
        ),
        (["--list=none.jsonl"], "--list=none.jsonl: no such file"),
        (["--grid=train.seed=[1,]"], "a value beside a comma is empty"),
        (["--run_dir=/proc/sweep"], "sweep and as /proc/sweep; expected it once"),
        (["--seeds=1", "--wandb_sweep=/proc/sweep.yaml"], "--wandb_sweep=/proc/sweep.yaml cannot be written"),
        (["seed"], "'seed' is neither a flag nor a setting"),
        (["--tpu=v3-32", "--gin_param=train.global_batch=64"], "files cannot be seen by 4 hosts of v3-32"),
    ],
)
def test_a_wrong_sweep_is_refused_whole(refused, run_flags, small_data, tmp_path, flags, message):
    directory = tmp_path / "sweep"
    common = [*run_flags, f"--data={small_data}", f"--run_dir={directory}"]
    assert message in refused("tools.sweep", *common, "--gin_param=train.steps=2", *flags)
    assert not directory.exists()


def test_a_directory_that_cannot_be_written_to_is_refused(refused, run_flags, small_data):
    flags = [*run_flags, f"--data={small_data}", "--gin_param=train.steps=2", "--run_dir=/proc/sweep"]
    assert "--run_dir=/proc/sweep cannot be written to" in refused("tools.sweep", *flags)


def test_a_directory_of_something_else_is_refused(refused, run_flags, small_data):
    flags = [*run_flags, f"--data={small_data}", "--gin_param=train.steps=2", f"--run_dir={small_data}"]
    assert "holds files that are not a sweep" in refused("tools.sweep", *flags)
