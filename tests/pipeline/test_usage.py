"""Commands explain themselves: ``--help``, a command without arguments, and one in an environment that is not ready."""

import re
import subprocess
import sys

import pytest

from tests.helpers.places import ROOT

FILES = [*ROOT.glob("pipeline/*.py"), *ROOT.glob("tools/*.py"), *ROOT.glob("tools/*/*.py")]
COMMANDS = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__"): path.read_text(encoding="utf-8")
    for path in FILES
    if "\n    cli.run(" in path.read_text(encoding="utf-8")
}


def test_there_are_commands():
    assert {"pipeline.train", "pipeline.shard", "tools.sweep", "tools.serve", "tools.verify"} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_what_a_command_does_and_lists_its_flags(command, run_module):
    done = run_module(command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"-m {command}" in done.stdout
    flags = set(re.findall(r"^  --(?:\[no\])?(\w+)", done.stdout, re.MULTILINE))
    defined = re.findall(r'(?:DEFINE_\w+|define_paths?)\(\s*"(\w+)"', COMMANDS[command])
    assert flags >= set(defined)
    assert not flags & {"logtostderr", "verbosity", "pdb"}  # of the libraries


def test_short_help_shows_defaults_and_what_repeats(run_module):
    text = run_module("tools.sweep", "-h").stdout
    assert "--gin_param=… (repeats)" in text and "Default: 0/1." in text and "repeat this option" not in text


def test_a_command_without_arguments_points_at_its_help(refused):
    assert "(python -m pipeline.train --help says what there is)" in refused("pipeline.train")


@pytest.mark.parametrize("command", ["pipeline.train", "tools.sweep"])
def test_another_python_is_told_to_make_the_environment(command):
    """-S leaves out what is installed."""
    done = subprocess.run([sys.executable, "-S", "-m", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "make setup, then .venv/bin/python" in done.stderr
