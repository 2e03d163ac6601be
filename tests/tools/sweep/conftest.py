"""Sweeps of real, tiny runs."""

import json

import pytest

from tests.helpers import fork_server


@pytest.fixture
def sweep_command(small_data, run_flags, python):
    """Returns the command line of a sweep of 4 cells, each of a few small steps."""

    def command(directory, *more, data=small_data, steps=6):
        return [
            *(*fork_server.light(python, "tools.sweep"), *run_flags, f"--data={data}", f"--run_dir={directory}"),
            *(f"--gin_param=train.steps={steps}", "--gin_param=train.steps_per_loop=1"),
            *("--gin_param=train.checkpoint_every=2", "--grid=SGD.learning_rate=[1e-2,3e-2]", "--seeds=2"),
            *more,
        ]

    return command


@pytest.fixture
def start(start_process):
    """Starts a sweep as a process, which does not wait before it starts a run again."""
    return lambda command, **environment: start_process(command, **{"RESTART_SECONDS": "0"} | environment)


@pytest.fixture
def records():
    """Reads what the runs of a sweep have written of their steps: by cell, in order."""

    def read(directory):
        steps = {}
        for path in (directory / "cells").glob("*/metrics.jsonl"):
            lines = path.read_text().splitlines()
            steps[path.parent.name] = [json.loads(line)["step"] for line in lines if line.endswith("}")]
        return steps

    return read
