"""The page of benchmarks: measured sections are written, the others stay, and wrong choices are refused."""

import os
import signal
import tempfile
import time
import types

import pytest

from pipeline import cli
from pipeline.devices import wheels
from tools import bench


def test_a_section_is_replaced_and_the_others_stay(tmp_path):
    file = tmp_path / "benchmarks.md"
    bench.write_page(
        file, {"step": {"ratio_to_keras_hub": 1.25, "tokens_per_second": 12345.6}, "read": {"ratio": 3}}, "one"
    )
    bench.write_page(file, {"step": {"ratio_to_keras_hub": 1.5}}, "another")
    text = file.read_text()
    assert text.count("## ") == 2 and text.index("## read") < text.index("## step")
    assert "| ratio | 3 |" in text and "--only=read` on one:" in text
    assert "| ratio to keras hub | 1.5 |" in text and "--only=step` on another:" in text and "12,346" not in text
    assert "keras-hub's `fit`" in text, "the benchmark says itself what it measures"


def test_wrong_choices_are_refused(refused, tmp_path):
    assert "did you mean 'step'" in refused("tools.bench", "--only=stepp")
    assert "its folder does not exist" in refused("tools.bench", f"--page={tmp_path}/no/benchmarks.md")


def test_what_was_measured_stays_when_the_next_one_fails(tmp_path, monkeypatch):
    def fail():
        raise RuntimeError("interrupted")

    runs = {"tools.benchmarks.read": lambda: {"ratio": 3}, "tools.benchmarks.evaluate": fail}
    modules = {name: types.SimpleNamespace(run=run, __doc__="It reads.") for name, run in runs.items()}
    monkeypatch.setattr(bench.importlib, "import_module", modules.__getitem__)
    page, figures = tmp_path / "page.md", tmp_path / "figures.json"
    with pytest.raises(RuntimeError, match="interrupted"):
        cli.call(bench.main, bench.define_flags, ["--only=read,evaluate", f"--page={page}", f"--json={figures}"])
    assert "| ratio | 3 |" in page.read_text() and '"ratio": 3' in figures.read_text()


def test_sigterm_removes_the_temporary_folder(tmp_path, monkeypatch):
    def run():
        with tempfile.TemporaryDirectory(dir=tmp_path):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(bench.importlib, "import_module", lambda _: types.SimpleNamespace(run=run))
    try:
        with pytest.raises(SystemExit) as ended:
            cli.call(bench.main, bench.define_flags, ["--only=read"])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended.value.code == 128 + signal.SIGTERM and not [*tmp_path.iterdir()]


def test_a_missing_reference_is_named_before_anything_is_measured(monkeypatch, capsys):
    monkeypatch.setattr(wheels, "installed", {"tensorflow": "2.21.0", "datasets": "5.2.0"}.get)
    assert cli.call(bench.main, bench.define_flags, ["--only=read,shard"]) == 2
    said = capsys.readouterr()
    assert "shard compares with tiktoken, which is not installed: " in said.err and "read" not in said.out
