"""The study's cells are runs that can start, the bug is the bug, the runner resumes, grids of rates grow."""

import dataclasses
import itertools
import os
import shutil
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from models.config import ALGPT2Config
from models.weight_specs import BLOCK_MATRICES, weight_specs
from pipeline.errors import UserError, WorkFailedError
from pipeline.optimizers.build import CLASSES, build
from pipeline.optimizers.config import AdafactorConfig
from pipeline.optimizers.schedules import Schedule
from tests.helpers.made_up_study import BEST, STUDY, all_cells, stored, write_cell, write_data
from tools.study import running
from tools.study.cells import CORPORA, Cell, grid, parts
from tools.study.recipes import OPTIMIZERS, RECIPES
from tools.study.store import Store
from tools.study.train import FrozenAdafactorConfig, GroupedAdafactorConfig, frozen_adafactor
from tools.study.tuning import MAX_RATES, chosen, rate_grid, tune
from tools.sweep import runner as runners


def test_cells_have_names_of_their_own_and_equal_tokens():
    cells = list(all_cells())
    assert len({cell.name for cell in cells}) == len(cells)
    assert {cell.corpus for cell in cells} == {*CORPORA}
    for part, rows in parts(STUDY, BEST).items():
        for cell in itertools.chain(*rows.values()):
            steps = next(text for text in cell.parameters() if "train.steps" in text).rpartition("=")[2]
            tokens = STUDY.grid_tokens if part == "ablations" else STUDY.tokens
            assert int(steps) * cell.batch * cell.context == tokens


@pytest.mark.parametrize(
    ("model", "optimizer"),
    [
        *itertools.product(("gpt2", "algpt2"), OPTIMIZERS),
        *(("gpt2", name) for name in ("no_clipping", "cosine_to_a_tenth", "sizes_of_the_start")),
        ("algpt2", "linear_0.5"),
    ],
)
def test_every_kind_of_cell_is_a_run_that_can_start(run_module, model, optimizer):
    cell = Cell(
        model=model, embedding=64, optimizer=optimizer, rate=0.005, tokens=8192, batch=8, context=64, dropout=0.1
    )
    done = run_module("tools.study.train", "--gin_file=study.gin", "--dry_run", *cell.parameters())
    assert done.returncode == 0, done.stderr
    assert "0.005" in done.stdout and "0.1" in done.stdout


def test_each_group_of_variables_has_its_own_rate():
    """Each variable of an ALGPT2 is in one group; those of the others keep the rate."""
    specs = weight_specs(ALGPT2Config(layers=2, heads=2, width=128, embedding=64, vocabulary_size=512))
    plain = AdafactorConfig(learning_rate=0.1)
    changed: dict[str, set[str]] = {}
    for group in ("tables", "norms", "matrices", "linear", "biases"):
        config = GroupedAdafactorConfig(learning_rate=0.1, **{group: 0.5})
        rates = {
            name: config.rate_of(name, spec.shape) / plain.rate_of(name, spec.shape) for name, spec in specs.items()
        }
        assert {*rates.values()} == {0.5, 1.0}
        changed[group] = {name for name, rate in rates.items() if rate == 0.5}
    assert sorted(itertools.chain(*changed.values())) == sorted(specs)
    assert changed["tables"] == {"token_table", "position_table"} and changed["linear"] == {
        "enter_kernel",
        "leave_kernel",
    }
    assert {name.rpartition("/")[2] for name in changed["matrices"]} == {*BLOCK_MATRICES}
    assert all("norm_scale" in name for name in changed["norms"])


def test_the_frozen_decay_forgets_every_gradient_but_the_last(monkeypatch):
    """With its decay at 0 the second moment is the last squared gradient; a right Adafactor remembers more."""
    gradients = np.random.default_rng(0).normal(size=(3, 4, 4)).astype(np.float32)
    moments = {}
    monkeypatch.setitem(CLASSES, FrozenAdafactorConfig, frozen_adafactor)
    for config in (FrozenAdafactorConfig, AdafactorConfig):
        optimizer = build(config(learning_rate=0.1), Schedule(kind="constant", steps=9, warmup_steps=0))
        weights = keras.Variable(tf.ones([4, 4]), name="w")
        optimizer.build([weights])
        for gradient in gradients:
            optimizer.update([tf.constant(gradient)], [weights])
        moments[config] = optimizer.slots(weights)["moment"].numpy()
    np.testing.assert_allclose(moments[FrozenAdafactorConfig], gradients[-1] ** 2, rtol=1e-5)
    assert np.abs(moments[AdafactorConfig] - gradients[-1] ** 2).max() > 0.1


def test_a_grid_grows_until_the_best_rate_is_inside_of_it(tmp_path, cells_that_end, monkeypatch):
    write_data(tmp_path)
    store, grids = stored(tmp_path), grid(STUDY)

    def measure(cells):
        store.measure(tmp_path, cells, workers=2)

    assert chosen(store, grids) == {} and len(store.missing(rate_grid(store, grids["scaled"]))) == 4
    assert tune(store, grids, measure) == chosen(store, grids) == pytest.approx(BEST)
    assert [cell.rate for cell in rate_grid(store, grids["scaled"])] == pytest.approx(
        [*RECIPES["scaled"].rates, 0.32, 0.64]
    )
    assert {(cell.seed, cell.tokens) for cell in cells_that_end} == {(0, STUDY.grid_tokens), (0, STUDY.tokens)}
    assert len({*cells_that_end}) == len(cells_that_end), "none ran twice"
    monkeypatch.setitem(BEST, "frozen", 1e9)
    write_data(tmp_path / "o")
    other = Store(tmp_path / "other.json", dict(store.content) | {"cells": {}})
    with pytest.raises(WorkFailedError, match=r"frozen: no best learning rate from 0\.00025 to .*"):
        tune(other, {"frozen": grids["frozen"]}, lambda cells: other.measure(tmp_path / "o", cells, 2))
    assert len(other.cells) == MAX_RATES


def test_results_on_other_texts_are_not_mixed(tmp_path, cells_that_end):
    write_data(tmp_path / "a", ["kernel", "cpython"])
    write_data(tmp_path / "b", ["kernel", "cpython"], fingerprint="g")
    store = stored(tmp_path)
    cells = {name: Cell(corpus=name, optimizer="scaled", rate=0.1, context=64) for name in ("kernel", "cpython")}
    store.measure(tmp_path / "a", cells.values(), workers=1)
    for name, cell in cells.items():
        with pytest.raises(UserError, match=f"measured on other texts of '{name}'"):
            store.measure(tmp_path / "b", [dataclasses.replace(cell, seed=1)], workers=1)
    assert len(cells_that_end) == 2
    assert Store.load(store.path).missing(cells.values()) == []


@pytest.fixture
def train(monkeypatch):
    """Makes a cell's process write its result; that of seed 2 fails, that of seed 3 hangs. Yields those started."""
    started, original = [], subprocess.Popen
    summary = {"train": {"nats_per_token": 1.0}, "steps": 1, "tokens_seen": 1, "parameters": 1}
    script = "import json, pathlib, sys, time; p = pathlib.Path(sys.argv[1]); p.mkdir(); seed = sys.argv[1][-1]\n"
    script += "seed == '2' and (p.rmdir(), sys.exit('no such optimizer')); seed == '3' and time.sleep(120)\n"
    script += f"(p / 'summary.json').write_text(json.dumps({summary!r}))"

    def start(command, **options):
        assert command[1:3] == ["-m", "tools.study.train"] and options["env"]["OMP_NUM_THREADS"] == "1"
        home = command[-1].removeprefix("--run_dir=")
        started.append(original([sys.executable, "-c", script, home], **options))
        if home.endswith("3"):
            os.kill(os.getpid(), signal.SIGTERM)
        return started[-1]

    monkeypatch.setattr(runners.subprocess, "Popen", start)
    return started


CELLS = [Cell(seed=seed, rate=1e-3, tokens=8192, batch=8, context=64) for seed in range(4)]


def test_the_runner_runs_what_is_missing_and_names_what_fails(tmp_path, train):
    with pytest.raises(WorkFailedError, match=r"1 cells failed; see .*_s2\.log"):
        running.run_cells(tmp_path, CELLS[:3], workers=2)
    assert len(train) == 3 and "no such optimizer" in (tmp_path / "cells" / f"{CELLS[2].name}.log").read_text()
    with pytest.raises(WorkFailedError):
        running.run_cells(tmp_path, CELLS[:3], workers=2)
    assert len(train) == 4
    shutil.rmtree(tmp_path / "cells" / CELLS[0].name)  # by hand: it is run again
    running.run_cells(tmp_path, CELLS[:2], workers=2)
    assert len(train) == 5
    shutil.rmtree(tmp_path / "ledger")  # a study that began before there was one
    running.run_cells(tmp_path, CELLS[:2], workers=2)
    assert len(train) == 5


def test_a_study_that_is_stopped_ends_with_the_signals_code(tmp_path, train):
    """Its running cells are terminated, and those that are left are not started."""
    with pytest.raises(SystemExit) as ended:
        running.run_cells(tmp_path, [CELLS[3], *CELLS[:3]], workers=2)
    assert ended.value.code == 128 + signal.SIGTERM
    assert [process.returncode for process in train] == [-signal.SIGTERM]


def test_a_study_that_is_killed_keeps_what_is_done(tmp_path, train):
    write_data(tmp_path, ["cpython"])
    for cell in CELLS[:2]:
        write_cell(tmp_path, cell)
    store = stored(tmp_path)
    with pytest.raises(SystemExit):
        store.measure(tmp_path, [CELLS[0], CELLS[3], CELLS[1]], workers=1)
    assert Store.load(store.path).missing(CELLS) == CELLS[2:]


def test_mistakes_are_one_sentence(refused, tmp_path):
    command = ("tools.study.run", f"--run_dir={tmp_path}/study", f"--page={tmp_path}/study.md")
    assert "--kernel is missing" in refused(*command)
    assert "--wikitext is missing" in refused(*command, f"--kernel={tmp_path}")
    assert "expected a multiple of batch × context" in refused(*command, "--gin_param=study.tokens=1000")
    assert "did you mean 'seeds'" in refused(*command, "--gin_param=study.seed=1")
    assert "the study sets it in its cells" in refused(*command, "--gin_param=train.steps=1")
    assert "there is no flag --gin_file" in refused(*command, "--gin_file=gpt2.gin")
    assert "expected a file NAME.md" in refused(command[0], "--page=")
    stored(tmp_path).write()
    assert "tokens = 8192, not 5242880" in refused(command[0], f"--page={tmp_path}/docs/study.md")
    assert not (tmp_path / "study").exists()
