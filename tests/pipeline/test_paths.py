"""Paths of flags and gin files: ``~`` is a home in all of them, and what can never work is refused at once."""

import os
import re

import pytest
from absl import flags

from pipeline import cli, paths
from pipeline.config import gin_reader
from pipeline.config.train_config import TrainConfig
from pipeline.data.format.settings import ShardConfig
from pipeline.errors import UserError
from tests.helpers.hostile import NAMES
from tests.helpers.places import ROOT

# Flags of text that name neither a file nor a directory; all others are defined by cli.define_path.
OTHER_TEXT = {
    *("tpu", "other_tpu", "slice", "runner", "format", "prompt", "part", "benchmark", "detokenizer", "zone", "host"),
    *("beam_option", "gin_param", "grid", "sample", "worker", "allow_host"),
    *("name", "hosts", "project", "network", "subnetwork", "service_account", "valid_until_duration"),
}


@pytest.mark.parametrize("name", [*NAMES, "./~", "a/~b", "gs://bucket/~/[v] #1?", "../x", "."])
def test_what_works_stays_as_it_is(name):
    assert paths.checked(name) == name


def test_a_home_is_found(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert paths.checked("~") == "/home/me" and paths.checked("~/runs/a") == "/home/me/runs/a"
    assert paths.checked("~root/a") == os.path.expanduser("~root/a") != "~root/a"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("~nobody-of-this-name/a", "there is no user 'nobody-of-this-name'; expected ./~nobody-of-this-name/a"),
        ("caf\udce9", r"'caf\udce9' is not UTF-8 text"),
        ("two\nlines", r"'two\nlines' holds a newline or another control character"),
        ("a\0b", r"'a\x00b' holds"),
        ("gs://bucket/two\rlines", "holds a newline"),
        ("gs://bucket/" + "é" * 600, "has a name of 1200 bytes; expected 1024 at most"),
    ],
)
def test_what_cannot_work_is_refused(path, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        paths.checked(path)


def test_every_flag_of_a_path_is_defined_as_one():
    """So that no new one makes a folder of the name ``~``."""
    for folder in ("pipeline", "tools"):
        for file in (ROOT / folder).rglob("*.py"):
            names = re.findall(r'flags\.DEFINE_(?:multi_)?string\(\s*"(\w+)"', file.read_text())
            assert {*names} <= OTHER_TEXT, file


def test_flags_of_paths(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    values = flags.FlagValues()
    monkeypatch.setattr(flags, "DEFINE", lambda *a, define=flags.DEFINE: define(*a, flag_values=values))
    monkeypatch.setattr(flags, "DEFINE_multi", lambda *a, define=flags.DEFINE_multi: define(*a, flag_values=values))
    cli.define_path("data", None, "")
    cli.define_paths("run_dir", "")
    values(["program", "--data=~/data", "--run_dir=~/a,b", "--run_dir=c"])
    assert values.data == "/home/me/data" and values.run_dir == ["/home/me/a,b", "c"]
    with pytest.raises(flags.IllegalFlagValueError, match="flag --data=.*not UTF-8"):
        values(["program", "--data=caf\udce9"])


@pytest.mark.parametrize("parameter", ["train.pretrained", "shard.tokenizer"])
def test_gin_values_of_paths(monkeypatch, tmp_path, parameter):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.gin").write_text(f"{parameter} = '~/in a file [1]'\n")
    (tmp_path / "include.gin").write_text("include '~/mine.gin'\n")
    surface, field = (TrainConfig, "pretrained") if "train" in parameter else (ShardConfig, "tokenizer")
    for files, parameters, expected in (
        (["~/include.gin"], [], str(tmp_path / "in a file [1]")),
        ([], [f"{parameter}=~/a b [v2]'s"], str(tmp_path / "a b [v2]'s")),
        ([], [f"{parameter}='~/quoted'"], str(tmp_path / "quoted")),
    ):
        assert gin_reader.load(files, parameters).bound(surface)[field][0] == expected
    configuration = gin_reader.load([], [f"{parameter}=a\nb"])
    with pytest.raises(UserError, match=rf"{parameter}: .* holds a newline"):
        configuration.bound(surface)


def test_a_gin_file_that_may_not_be_read_is_not_missing(tmp_path, as_nobody):
    (tmp_path / "mine.gin").write_text("train.steps = 1\n")
    tmp_path.chmod(0o700)
    for mode in (0o700, 0o755):
        tmp_path.chmod(mode)
        (tmp_path / "mine.gin").chmod(mode & 0o600)
        with as_nobody(), pytest.raises(UserError, match=r"mine\.gin: cannot be read .*Permission denied"):
            gin_reader.load([str(tmp_path / "mine.gin")])
