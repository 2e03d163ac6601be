"""Sweeps of real, tiny runs."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
STEPS = 6


@pytest.fixture
def sweep_command(small_data, run_flags):
    """Returns the command line of a sweep of 6 cells, each of a few small steps."""

    def command(directory, *more, data=small_data):
        return [
            *(sys.executable, "-m", "tools.sweep", *run_flags, f"--data={data}", f"--run_dir={directory}"),
            *(f"--gin_param=train.steps={STEPS}", "--gin_param=train.steps_per_loop=1"),
            *("--gin_param=train.checkpoint_every=2", "--grid=Adafactor.learning_rate=[1e-2,3e-2]", "--seeds=3"),
            *more,
        ]

    return command


@pytest.fixture
def start():
    """Starts a command as a process; what is left of them is killed at the end."""
    processes = []

    def run(command, **environment):
        environment = os.environ | {"RESTART_SECONDS": "0"} | environment
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        processes.append(process)
        return process

    yield run
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
def records():
    """Reads what the runs of a sweep have written of their steps: by cell, in order."""

    def read(directory):
        found = {}
        for path in (directory / "cells").glob("*/metrics.jsonl"):
            lines = path.read_text().splitlines()
            found[path.parent.name] = [json.loads(line)["step"] for line in lines if line.endswith("}")]
        return found

    return read
