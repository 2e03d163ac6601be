"""A run directory belongs to one run: it is claimed once, and another run is refused with the values that differ."""

import errno
import subprocess
import sys

import pytest

from pipeline.errors import UserError
from pipeline.runs.run_directory import RunDirectory
from tests.helpers.places import ROOT

IDENTITY = {"train": {"steps": 10, "microbatch": 4}, "model": {"kind": "GPT2Config", "width": 64}}


def changed(section, key, value):
    return {**IDENTITY, section: {**IDENTITY[section], key: value}}


def test_claimed_once_and_recognised_again(tmp_path):
    directory = RunDirectory(str(tmp_path / "new" / "run"))
    assert directory.claim(IDENTITY, frozenset()) is False
    assert directory.claim(IDENTITY, frozenset()) is True


def test_another_model_is_refused_with_both_values(tmp_path):
    directory = RunDirectory(str(tmp_path))
    directory.claim(IDENTITY, frozenset())
    with pytest.raises(UserError, match="model.width is 64 there and 128 here"):
        directory.claim(changed("model", "width", 128), frozenset())
    assert directory.read_json("run.json") == IDENTITY


def test_what_only_moves_work_may_change(tmp_path):
    directory = RunDirectory(str(tmp_path))
    directory.claim(IDENTITY, frozenset({"microbatch"}))
    assert directory.claim(changed("train", "microbatch", 8), frozenset({"microbatch"})) is True


def test_foreign_files_are_not_trained_over(tmp_path):
    (tmp_path / "thesis.txt").write_text("three years of work")
    with pytest.raises(UserError, match="new or empty"):
        RunDirectory(str(tmp_path)).claim(IDENTITY, frozenset())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_damaged_document_is_named(tmp_path):
    (tmp_path / "run.json").write_text('{"train": ')
    with pytest.raises(UserError, match=r"run\.json: damaged"):
        RunDirectory(str(tmp_path)).claim(IDENTITY, frozenset())


def test_a_write_that_fails_leaves_the_old_document(tmp_path, monkeypatch):
    directory = RunDirectory(str(tmp_path))
    directory.write("config.gin", "old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "no space")))
    with pytest.raises(OSError, match="no space"):
        directory.write("config.gin", "new")
    assert (tmp_path / "config.gin").read_text() == "old"


def test_two_processes_do_not_train_in_one_directory(tmp_path):
    """The first is killed, not ended, so that nothing but the kernel can let go of the lock."""
    script = f"""
import time
from pipeline.runs.run_directory import RunDirectory
RunDirectory({str(tmp_path / "run")!r}).claim({IDENTITY!r}, frozenset())
print("claimed", flush=True)
time.sleep(600)
"""
    first = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout.readline() == "claimed\n"
        with pytest.raises(UserError, match="another process is training there"):
            RunDirectory(str(tmp_path / "run")).claim(IDENTITY, frozenset())
    finally:
        first.kill()
        first.wait()
    assert RunDirectory(str(tmp_path / "run")).claim(IDENTITY, frozenset())


def test_a_directory_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--run_dir=\S+ cannot be written to \(Not a directory\)"):
        RunDirectory(str(tmp_path / "file" / "run")).claim(IDENTITY, frozenset())
