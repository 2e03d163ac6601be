"""Everything that gin can configure is explained: type, default, meaning, and where a loaded file binds it."""

import subprocess
import sys

import pytest

from pipeline.config import gin_reader
from tools import explain


@pytest.mark.parametrize("surface", gin_reader.SURFACES)
def test_every_setting_has_a_meaning(surface):
    kind = gin_reader.SURFACES[surface]
    meanings = explain.meanings(kind)
    assert set(explain.fields(kind)) <= set(meanings)
    assert all(len(meanings[setting]) > 5 for setting in explain.fields(kind))


def test_a_surface_shows_types_defaults_and_what_it_inherits(run_module):
    shown = run_module("tools.explain", "ALGPT2").stdout
    assert "ALGPT2.heads  (a whole number; default 12)\n    attention heads of a block; they divide ``width``." in shown
    assert "ALGPT2.embedding  (a whole number or None; default 128)" in shown


def test_a_setting_shows_its_value_and_origin(run_module):
    shown = run_module("tools.explain", "--gin_file=gpt2.gin", "train.steps").stdout
    assert shown.startswith("train.steps  (a whole number; required) = 90000  # gin/schedules/linear-90k.gin:3\n")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Adafaktor", "did you mean 'Adafactor'?"),
        ("train.stepz", "did you mean 'steps'?"),
        ("steps", "'steps' cannot be configured"),
    ],
)
def test_a_name_that_is_none_is_refused_with_the_nearest(refused, name, expected):
    assert expected in refused("tools.explain", name)


def test_a_reader_that_has_seen_enough_is_no_traceback():
    command = [sys.executable, "-m", "tools.explain", "train"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()  # before Python has started
        assert process.stderr.read() == "stdout: Broken pipe; the work continues without it\n"
