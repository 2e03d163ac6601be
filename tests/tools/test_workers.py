"""Processes that TF_CONFIG brings together train to the weights of one process, and survive each other's deaths."""

import json
import os
import signal
import socket
import time

import numpy as np
import pytest

from tests.helpers.metadata_server import MetadataServer

STEPS = 280
LONGEST = 300  # seconds that a worker may live after another has died; it takes a few
# For plain gradient descent, sums in another order differ by float32 rounding and no more. Adafactor divides by the
# root mean square of each variable's gradient, and that of the keys' bias is nothing but rounding.
ROUNDING = 1e-6


def free_addresses(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    return addresses


@pytest.fixture
def start(small_data, run_flags, start_process, python):
    """Starts the workers of a run, in their order."""

    def run(directory, workers, *flags, only_last=(), last_directory=None, last_environment=None):
        addresses, started = free_addresses(workers), []
        for index in range(workers):
            environment = {"CUDA_VISIBLE_DEVICES": "-1"}
            if workers > 1:
                task = {"type": "worker", "index": index}
                environment["TF_CONFIG"] = json.dumps({"cluster": {"worker": addresses}, "task": task})
            command = [python, "-m", "pipeline.train", *run_flags, *flags, f"--data={small_data}"]
            is_last = index == workers - 1
            environment |= (is_last and last_environment) or {}
            command += [f"--run_dir={(is_last and last_directory) or directory}", *(only_last if is_last else ())]
            started.append(start_process(command, **environment))
        return started

    return run


def ends(processes):
    output = [process.communicate(timeout=LONGEST)[0] for process in processes]
    return [process.returncode for process in processes], output


def flags(steps):
    return (f"--gin_param=train.steps={steps}", "--gin_param=train.steps_per_loop=10", "--gin_param=train.microbatch=2")


def records(run):
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def weights(run):
    import tensorflow as tf

    from pipeline.runs import checkpoint_files

    newest = checkpoint_files.newest_sound(str(run / "checkpoints"))[0]
    reader = tf.train.load_checkpoint(f"{newest.folder}/state")
    names = [name for name in reader.get_variable_to_shape_map() if name.startswith("variables/weights")]
    return newest.step, {name: reader.get_tensor(name) for name in sorted(names)}


@pytest.mark.slow
def test_four_processes_train_to_the_weights_of_one(start, tmp_path):
    runs = {count: tmp_path / f"run{count}" for count in (1, 4)}
    for count, run in runs.items():
        codes, output = ends(start(run, count, *flags(20)))
        assert codes == [0] * count, output
        if count > 1:
            assert [text.count("loss") > 0 for text in output] == [True] + [False] * (count - 1), "one of them prints"
    step, expected = weights(runs[1])
    losses = [record["loss"] for record in records(runs[1])]
    reached = weights(runs[4])
    assert reached[0] == step == 20 and reached[1].keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(reached[1][name], value, rtol=0, atol=ROUNDING, err_msg=name)
    np.testing.assert_allclose([record["loss"] for record in records(runs[4])], losses, rtol=1e-6)
    assert json.loads((runs[4] / "summary.json").read_text())["tokens_seen"] == 20 * 8 * 32


def after_steps(processes, run, steps):
    """Blocks until the run has recorded this many steps."""
    deadline = time.monotonic() + LONGEST
    while not any(record["step"] >= steps for record in records(run)[-1:]):
        assert time.monotonic() < deadline and all(process.poll() is None for process in processes)
        time.sleep(0.05)


@pytest.mark.slow
def test_killed_and_stopped_workers_leave_a_run_that_goes_on_to_the_same_weights(start, tmp_path):
    options = (*flags(STEPS), "--gin_param=train.checkpoint_every=20")
    codes, output = ends(start(tmp_path / "unbroken", 2, *options))
    assert codes == [0, 0], output

    run = tmp_path / "run"
    with MetadataServer() as vm:  # of the second worker alone, which is about to end from the first step on
        vm.say({"maintenance-event": "NONE", "preempted": "TRUE"})
        codes, output = ends(start(run, 2, *options, last_environment={"GCE_METADATA_HOST": vm.address}))
    assert codes == [os.EX_TEMPFAIL] * 2, output
    assert "lost: another worker's machine is about to end" in output[0] and "has preempted this machine" in output[1]
    reached = weights(run)[0]
    assert reached == records(run)[-1]["step"] < STEPS, "both stop at the same step, which is saved"
    for victim, number in ((1, signal.SIGKILL), (1, signal.SIGTERM), (0, signal.SIGKILL)):
        workers = start(run, 2, *options)
        after_steps(workers, run, reached + 40)
        workers[victim].send_signal(number)
        codes, output = ends(workers)
        if number == signal.SIGKILL:
            assert codes[victim] == -signal.SIGKILL
            assert codes[1 - victim] == os.EX_TEMPFAIL, output
            assert "the same command continues from the newest checkpoint" in output[1 - victim]
        else:
            assert codes == [0, 0], output
            assert "stopped by a signal" in output[0]
            assert weights(run)[0] == records(run)[-1]["step"], "all stop at the same step, which is saved"
        assert weights(run)[0] > reached
        reached = weights(run)[0]
    codes, output = ends(start(run, 2, *options))
    assert codes == [0, 0], output
    assert f"resumes at step {reached:,}" in output[0]
    (_, expected), (step, actual) = weights(tmp_path / "unbroken"), weights(run)
    assert step == STEPS
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value, err_msg=name)


@pytest.mark.slow
def test_a_worker_with_another_configuration_is_refused(start, tmp_path):
    codes, output = ends(start(tmp_path / "run", 2, *flags(20), only_last=["--gin_param=SGD.learning_rate=0.5"]))
    assert codes == [os.EX_TEMPFAIL, 2], output
    assert "holds another run: optimizer.learning_rate is 0.3 there and 0.5 here" in output[1]


@pytest.mark.slow
def test_workers_that_do_not_share_their_directory_are_told_so(start, tmp_path):
    codes, output = ends(start(tmp_path / "run", 2, *flags(20), last_directory=tmp_path / "other"))
    assert codes[1] == 2 and "no run.json there" in output[1], output
    assert not (tmp_path / "other").exists()
