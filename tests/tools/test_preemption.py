"""Signals save and end with 0, lost workers and notices with 75, and the loop knows what to start again."""

import json
import signal
import subprocess
import sys
import time

import pytest

from pipeline.errors import WorkerLostError
from tests.helpers.places import ROOT

BOUND_SECONDS = 60  # one loop of small steps and one small checkpoint; most of it is for a busy machine


def metrics(run):
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")] if path.exists() else []


@pytest.mark.slow
def test_sigterm_and_sigint_save_and_exit_0_and_the_same_command_goes_on(small_data, run_flags, python, tmp_path):
    from pipeline.runs import checkpoint_files

    run = tmp_path / "run"
    command = [
        *(python, "-m", "pipeline.train", *run_flags, f"--data={small_data}", f"--run_dir={run}"),
        *("--gin_param=train.steps=1000000", "--gin_param=train.steps_per_loop=5"),
        "--gin_param=train.checkpoint_every=1000000",
    ]
    reached = 0
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        deadline = time.monotonic() + 240
        while not any(record["step"] > reached + 10 for record in metrics(run)):
            assert process.poll() is None and time.monotonic() < deadline, process.communicate(timeout=10)[0]
            time.sleep(0.1)
        asked = time.monotonic()
        lost = number == signal.SIGHUP
        if lost:  # its output is no longer read, as after `| head`, when the signal comes
            output = "".join(process.stdout.readline() for _ in range(2))
            process.stdout.close()
            time.sleep(1)
        process.send_signal(number)
        if not lost:
            output, _ = process.communicate(timeout=BOUND_SECONDS)
        assert process.wait(timeout=BOUND_SECONDS) == lost, output  # 1: what it printed was lost
        assert time.monotonic() - asked < BOUND_SECONDS
        assert f"resumes at step {reached:,}" in output if reached else "starts at step 0" in output
        (*_, newest) = checkpoint_files.steps(str(run / "checkpoints"))
        assert newest == metrics(run)[-1]["step"] > reached, "the last step that was taken is saved"
        reached = newest


@pytest.mark.slow
def test_a_notice_saves_and_ends_with_75_and_the_same_command_goes_on(
    small_data, run_flags, run_module, metadata_server, tmp_path
):
    """The notice stands from the beginning, so that the run is stopped where its first steps end."""
    flags = [*run_flags, f"--data={small_data}", "--gin_param=train.steps=20", "--gin_param=train.steps_per_loop=1"]
    metadata_server.say({"maintenance-event": "NONE", "preempted": "TRUE"})
    done = run_module("pipeline.train", *flags, f"--run_dir={tmp_path / 'run'}")
    reached = metrics(tmp_path / "run")[-1]["step"]
    assert done.returncode == 75 and reached < 20 and "stopped by" not in done.stdout
    assert done.stderr == (
        f"lost: Google Cloud has preempted this machine (instance/preempted: TRUE); step {reached} is saved; "
        "the same command continues from the newest checkpoint\n"
    )
    metadata_server.say({"preempted": "FALSE"})
    metadata_server.fall_silent(after=2)  # nobody waits for it when the run is done
    done = run_module("pipeline.train", *flags, f"--run_dir={tmp_path / 'run'}")
    assert done.returncode == 0 and f"resumes at step {reached}" in done.stdout, done.stderr
    unbroken = run_module("pipeline.train", *flags, f"--run_dir={tmp_path / 'unbroken'}")
    assert unbroken.returncode == 0, unbroken.stderr
    losses = [{record["step"]: record["loss"] for record in metrics(tmp_path / run)} for run in ("run", "unbroken")]
    assert losses[0] == losses[1] and max(losses[0]) == len(losses[0]) == 20


def test_a_lost_worker_ends_with_75_whatever_threads_are_left():
    program = """
import atexit, threading
from pipeline import cli
from pipeline.errors import WorkerLostError
def main():
    threading.Thread(target=threading.Event().wait).start()
    atexit.register(threading.Event().wait)
    raise WorkerLostError("a worker went away (UnavailableError: Socket closed)")
cli.run(main)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 75
    assert done.stderr == (
        "lost: a worker went away (UnavailableError: Socket closed); "
        "the same command continues from the newest checkpoint\n"
    )


def test_what_tensorflow_raises_for_lost_workers_is_told_from_mistakes():
    import tensorflow as tf

    from pipeline.training.lost_workers import restartable

    errors = tf.errors
    lost = (
        errors.UnavailableError(None, None, "Socket closed"),
        errors.AbortedError(None, None, "Session was reset"),
        errors.InternalError(None, None, "Failed to connect to remote host"),
        errors.FailedPreconditionError(None, None, "The TPU system has not been initialized."),
        errors.CancelledError(None, None, "worker 3 was preempted"),
    )
    for error in lost:
        with pytest.raises(WorkerLostError, match=type(error).__name__), restartable():
            raise error
    mistakes = (
        errors.InvalidArgumentError(None, None, "a record is damaged"),
        errors.ResourceExhaustedError(None, None, "OOM when allocating"),
        errors.InternalError(None, None, "during compilation"),
        errors.NotFoundError(None, None, "no such file"),
    )
    for error in mistakes:
        with pytest.raises(type(error)), restartable():
            raise error


def supervised(tmp_path, codes):
    """Runs the loop over a command that ends with each code in turn; returns its code and how often it started."""
    script = tmp_path / "command.sh"
    starts = tmp_path / "starts"
    script.write_text(
        f'#!/bin/sh\necho x >> {starts}\nn=$(wc -l < {starts})\ncode=$(echo "{" ".join(codes)}" | cut -d" " -f$n)\n'
        '[ "$code" = KILL ] && kill -9 $$\nexit $code\n'
    )
    script.chmod(0o755)
    done = subprocess.run(
        [ROOT / "tools" / "until_done.sh", script], env={"RESTART_SECONDS": "0", "PATH": "/usr/bin:/bin"}, check=False
    )
    return done.returncode, len(starts.read_text().splitlines())


@pytest.mark.parametrize(
    ("codes", "ends"),
    [
        (["75", "75", "0"], (0, 3)),
        (["KILL", "75", "1"], (1, 3)),
        (["2", "0"], (2, 1)),
        (["0"], (0, 1)),
    ],
)
def test_the_loop_starts_again_only_what_a_machine_ended(tmp_path, codes, ends):
    assert supervised(tmp_path, codes) == ends


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_the_loop_hands_signals_on_and_ends_with_the_command(number):
    command = "trap 'sleep 0.3; echo saved; exit 0' TERM; echo up; while :; do sleep 0.1; done"
    process = subprocess.Popen(
        [ROOT / "tools" / "until_done.sh", "sh", "-c", command], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "up\n"
    process.send_signal(number)
    assert process.communicate(timeout=20)[0] == "saved\n"
    assert process.returncode == 0


def test_the_loop_hands_on_a_sigterm_that_comes_while_it_starts_the_command():
    command = "trap 'exit 0' TERM; kill -TERM $PPID; while :; do sleep 0.02; done"
    for _ in range(30):  # the signal falls before the loop knows the command's id in about one of five
        subprocess.run([ROOT / "tools" / "until_done.sh", "sh", "-c", command], timeout=60, check=True)
