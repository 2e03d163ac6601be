"""Commands explain themselves: ``--help``, a command without arguments, and one in an environment that is not ready."""

import importlib
import re
import subprocess
import sys

import pytest
from absl.flags import FLAGS

from pipeline import cli
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
    assert max(map(len, done.stdout.splitlines())) <= 80, "a terminal's width"
    flags = set(re.findall(r"^  --(?:\[no\])?(\w+)", done.stdout, re.MULTILINE))
    defined = re.findall(r'(?:DEFINE_\w+|define_paths?)\(\s*"(\w+)"', COMMANDS[command])
    assert flags >= set(defined)
    assert not flags & {"logtostderr", "verbosity", "pdb"}  # of the libraries


def test_short_help_shows_defaults_and_what_repeats(run_module):
    text = run_module("tools.sweep", "-h").stdout
    assert "--gin_param=… (repeats)" in text and "Default: 0/1." in text
    assert "repeat this option" not in text and "Repeats" not in text


def test_a_command_without_arguments_points_at_its_help(refused):
    assert "(python -m pipeline.train --help says what there is)" in refused("pipeline.train")


def in_process(command, *arguments):
    """Runs a command in this process, and returns its exit code."""
    name = f"{command}.__main__" if (ROOT / command.replace(".", "/")).is_dir() else command
    module = importlib.import_module(name)
    return cli.call(module.main, getattr(module, "define_flags", None), arguments)


def test_all_commands_fit_into_one_process(capsys):
    before = set(FLAGS)
    for command in COMMANDS:
        assert in_process(command, "--help") == 0
        assert f"-m {command}" in capsys.readouterr().out
    assert set(FLAGS) == before


def test_commands_in_one_process_have_flags_of_their_own(capsys, tmp_path):
    """The same names in another command, and the same command again, begin with the defaults."""
    (tmp_path / "manifest.json").write_text("{}")
    for command, arguments, code, expected in (
        ("pipeline.train", ["--gin_file=quickstart.gin", "--tpu=virtual-2", "--dry_run"], 0, "batch"),
        ("pipeline.train", ["--tpu=virtual-2"], 2, "--gin_file is missing"),
        ("tools.verify", [f"--data={tmp_path}"], 2, str(tmp_path)),
        ("tools.verify", ["--workers=1"], 2, "--data is missing"),
        ("tools.verify", ["--workers=1", "--workers=2"], 2, "--workers is given twice"),
        ("tools.verify", ["--tpu=virtual-2"], 2, "there is no flag --tpu; python -m tools.verify --help lists them"),
        ("tools.explain", ["train.steps"], 0, "train.steps"),
        ("tools.explain", ["train.steps", "again"], 2, "'again' is not a flag"),
        ("tools.verify", [], 2, "(python -m tools.verify --help says what there is)"),
    ):
        assert in_process(command, *arguments) == code
        printed = capsys.readouterr()
        assert expected in (printed.err if code else printed.out)


@pytest.mark.parametrize(
    ("command", "arguments", "expected"),
    [
        ("pipeline.shard", ["--workers=abc"], "--workers=abc: expected a whole number"),
        ("pipeline.generate", ["--temperature=hot"], "--temperature=hot: expected a non-negative number"),
        ("pipeline.train", ["--dry_run=maybe"], "--dry_run=maybe: expected --dry_run or --nodry_run"),
        ("pipeline.train", ["--nodry_run=x"], "--nodry_run=x does not take an argument"),
        ("pipeline.shard", ["--workers"], "no value follows --workers"),
        ("pipeline.shard", ["--wrkers=3"], "there is no flag --wrkers (did you mean '--workers'?); python -m"),
        ("pipeline.train", ["--nodryrun"], "there is no flag --nodryrun (did you mean '--nodry_run'?); python -m"),
        ("pipeline.train", ["--x"], "there is no flag --x; python -m pipeline.train --help lists them"),
        ("tools.recorded_train", ["--kill_at=2"], "--rows_file is missing; expected a file for the digests"),
    ],
)
def test_a_wrong_flag_is_answered_in_our_words(command, arguments, expected, capsys):
    assert in_process(command, *arguments) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: {expected}") and message.count("\n") == 1


@pytest.mark.parametrize("command", ["pipeline.train", "tools.sweep"])
def test_another_python_is_told_to_make_the_environment(command):
    """-S leaves out what is installed."""
    done = subprocess.run([sys.executable, "-S", "-m", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "make setup, then .venv/bin/python" in done.stderr
