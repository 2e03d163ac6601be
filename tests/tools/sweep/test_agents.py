"""The file for `wandb sweep`: read with wandb's own code, its command is one that tools.sweep takes."""

import pytest
import yaml

from pipeline.errors import UserError
from tools.sweep import agents, axes
from tools.sweep.cells import Base

BASE = Base(gin_files=("algpt2.gin",), gin_params=("train.steps=9000",), data="gs://b/d", tpu="pod-128")
AXES = [axes.grid_axis("model=[algpt2,gpt2]"), axes.sample_axis("Adafactor.learning_rate=log(1e-4,1e-2)")]


def test_grid_and_samples_are_described():
    configuration = yaml.safe_load(agents.configuration(BASE, "runs/s", AXES, seeds=2))
    assert configuration["method"] == "random"
    assert configuration["metric"] == {"name": "validation.nats_per_token", "goal": "minimize"}
    assert configuration["parameters"] == {
        "train.model": {"values": ["algpt2", "gpt2"]},
        "Adafactor.learning_rate": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2},
        "train.seed": {"values": [0, 1]},
    }
    assert yaml.safe_load(agents.configuration(BASE, "runs/s", AXES[:1], seeds=0))["method"] == "grid"
    with pytest.raises(UserError, match="nothing varies"):
        agents.configuration(BASE, "runs/s", [], seeds=0)


def test_an_agents_command_is_one_cell(run_module):
    """wandb's agent fills the command in by these functions."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    configuration = yaml.safe_load(agents.configuration(BASE, "runs/s", AXES, seeds=1))
    chosen = {"train.model": "gpt2", "Adafactor.learning_rate": 0.00123, "train.seed": 0}
    filled = create_sweep_command_args({"args": {name: {"value": value} for name, value in chosen.items()}})
    command = []
    for part in create_sweep_command(configuration["command"]):
        command += filled["args_no_hyphens"] if part == "${args_no_hyphens}" else [part]
    module = command.index("-m") + 1
    done = run_module(command[module], *command[module + 1 :], "--dry_run")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert line == "train.model=gpt2  Adafactor.learning_rate=0.00123  train.seed=0"


def test_the_file_is_written_by_the_command(run_module, tmp_path):
    file = tmp_path / "sweep.yaml"
    flags = ["--gin_file=algpt2.gin", "--data=gs://b/d", "--run_dir=runs/s", "--seeds=3", f"--wandb_sweep={file}"]
    done = run_module("tools.sweep", *flags)
    assert done.returncode == 0 and f"wandb sweep {file}" in done.stdout
    assert yaml.safe_load(file.read_text())["parameters"] == {"train.seed": {"values": [0, 1, 2]}}
