"""Every command refuses each gin surface that it does not read; of models and optimizers it reads the chosen."""

import importlib
import typing

import pytest

from pipeline import cli, train
from pipeline.config import gin_reader

RUN = ("--gin_file=gpt2.gin", "--gin_param=train.optimizer=adafactor")
TRAINS = {"train", "GPT2", "Adafactor", "slice"}
COMMANDS = {  # the flags of a command, and what it reads
    "pipeline.train": ((*RUN, "--dry_run"), TRAINS),
    "pipeline.shard": (("--gin_file=datasets/cpython.gin", "--output=never"), {"shard"}),
    "pipeline.tokenizer": (("--size=300", "--output=never"), {"shard"}),
    "tools.preflight": ((*RUN, "--tpu=v3-8"), TRAINS),
    "tools.step_on_tpu": ((*RUN, "--slices=v3-8"), TRAINS - {"slice"}),
    "tools.coordinate_check": ((*RUN, "--data=never"), TRAINS - {"slice"}),
    "tools.sweep.__main__": ((*RUN, "--dry_run", "--run_dir=never", "--grid=train.seed=[0,1]"), TRAINS),
    "tools.resume_proof": ((*RUN, "--data=never"), TRAINS),
}
PAIRS = [
    (command, surface) for command, (_, reads) in COMMANDS.items() for surface in gin_reader.SURFACES.keys() - reads
]


@pytest.mark.parametrize(("command", "surface"), sorted(PAIRS))
def test_a_surface_that_a_command_never_reads_is_refused(command, surface, capsys):
    module = importlib.import_module(command)
    setting = f"{surface}.{next(iter(typing.get_type_hints(gin_reader.SURFACES[surface])))}"
    arguments = [*COMMANDS[command][0], f"--gin_param={setting}=1"]
    assert cli.call(module.main, module.define_flags, arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and setting in line
    assert "has no effect here" in line or "no cell uses" in line


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        (
            ["train.model='gpt2'"],
            "note: the model is GPT2, with its defaults layers = 12, heads = 12, width = 768, context = 1024; "
            "gin/quickstart.gin:9 sets these for ALGPT2\n",
        ),
        (["train.model='gpt2'", *(f"GPT2.{name}" for name in ("layers=2", "heads=4", "width=128", "context=128"))], ""),
        ([], ""),
    ],
)
def test_sizes_that_another_model_was_given_are_said_not_to_hold(parameters, said, capsys):
    flags = ["--gin_file=quickstart.gin", "--dry_run", *(f"--gin_param={parameter}" for parameter in parameters)]
    assert cli.call(train.main, train.define_flags, flags) == 0
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("setting", ["train.steps", "slice.name", "shard.shards"])
def test_the_study_reads_its_own_settings_only(refused, setting):
    assert f"{setting}=1: the study sets it" in refused("tools.study.run", f"--gin_param={setting}=1")
