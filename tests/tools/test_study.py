"""The study's cells are runs that can start, the bug is the bug, the runner resumes, the page follows from the runs."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.data.format import manifest, records
from pipeline.errors import UserError, WorkFailedError
from pipeline.optimizers.build import CLASSES, build
from pipeline.optimizers.config import AdafactorConfig
from pipeline.optimizers.schedules import Schedule
from tests.helpers.places import ROOT
from tools.study import figures, page, run, running
from tools.study.cells import CORPORA, OPTIMIZERS, RECIPES, Cell, StudyConfig, grid, parts
from tools.study.claims import Claim, Pair
from tools.study.results import Difference, Row
from tools.study.store import Store
from tools.study.train import FrozenAdafactorConfig, frozen_adafactor
from tools.study.tuning import MAX_RATES, by_seed, chosen, rate_grid, tune
from tools.sweep import runner as runners

STUDY = StudyConfig(tokens=8192, grid_tokens=4096, seeds=3, batch=8, context=64)
BEST = {"adafactor": 2e-3, "frozen": 5e-4, "scaled": 0.32, "nanogpt": 4e-3, "muon": 2e-2, "algpt2": 4e-2}


def all_cells(best=BEST):
    return dict.fromkeys(cell for rows in parts(STUDY, best).values() for cells in rows.values() for cell in cells)


def test_cells_have_names_of_their_own_and_equal_tokens():
    cells = list(all_cells())
    assert len({cell.name for cell in cells}) == len(cells)
    assert {cell.corpus for cell in cells} == {*CORPORA}
    for cell in cells:
        steps = next(text for text in cell.parameters() if "train.steps" in text).rpartition("=")[2]
        assert int(steps) * cell.batch * cell.context == STUDY.tokens


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("model", ["gpt2", "algpt2"])
def test_every_kind_of_cell_is_a_run_that_can_start(run_module, model, optimizer):
    cell = Cell(
        model=model, embedding=64, optimizer=optimizer, rate=0.005, tokens=8192, batch=8, context=64, dropout=0.1
    )
    done = run_module("tools.study.train", "--gin_file=study.gin", "--dry_run", *cell.parameters())
    assert done.returncode == 0, done.stderr
    assert "0.005" in done.stdout and "0.1" in done.stdout


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


@pytest.mark.parametrize(
    ("by_seed", "clear"),
    [
        ((0.1, 0.11, 0.12), True),
        ((-0.1, -0.11, -0.12), True),
        ((0.1, 0.3, -0.01), False),
        ((0.1, 0.2, 0.3), False),
        ((0.1,), False),
    ],
)
def test_a_clear_difference(by_seed, clear):
    assert Difference(by_seed=by_seed).is_clear is clear


def made_up_loss(cell):
    """AdamW and scaled Adafactor equal but for noise, the frozen one worse; E matters; a longer context is worse."""
    loss = 5.0 + 0.01 * ((cell.seed * 7 + len(cell.optimizer)) % 3) + 0.5 * (cell.optimizer == "frozen")
    loss += 0.1 * abs(np.log2(cell.rate / BEST[cell.optimizer if cell.model == "gpt2" else "algpt2"]))
    loss += (0.3 + 0.1 * (cell.embedding == 24)) * (cell.model == "algpt2")
    return float(loss + 0.2 * (cell.context == 128))


def write_cell(folder, cell):
    home = folder / "cells" / cell.name
    home.mkdir(parents=True)
    steps = [{"step": step, "tokens": 512 * step, "loss": 9 - step / 50} for step in range(1, 201)]
    (home / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    model = {"kind": "GPT2Config" if cell.model == "gpt2" else "ALGPT2Config", "layers": 2, "heads": 2, "width": 128}
    model |= {"context": cell.context, "vocabulary_size": 4096}
    validation = {"nats_per_token": made_up_loss(cell), "bits_per_byte": made_up_loss(cell) / 3}
    (home / "run.json").write_text(json.dumps({"model": model}))
    (home / "summary.json").write_text(json.dumps({"parameters": 2_000_000, "validation": validation}))


def write_data(folder, corpora=CORPORA, fingerprint="f"):
    """Manifests of 2,000 tokens to train on."""
    for corpus in corpora:
        counts = {"documents": 7, "utf8_bytes": 4_000, "words": 900, "word_rule": "whitespace", "tail": ()}
        shard = manifest.Shard(file="x", records=16, bytes=16 * records.record_bytes(124), crc32c="0")
        part = manifest.Part(tokens=2_000, records=16, padding_tokens=0, shards=(shard,), **counts)
        data = manifest.Manifest(
            corpus=manifest.Corpus(name=corpus, fingerprint=fingerprint, listing="l", seed=0, order="hash"),
            tokenizer=manifest.Tokenizer(name="t", fingerprint="f", vocabulary_size=4096, end_of_text=0),
            record=manifest.Record(context=124, bytes=records.record_bytes(124), packing="contiguous"),
            parts={"train": part, "validation": part},
        )
        home = folder / "data" / corpus
        home.mkdir(parents=True)
        (home / "manifest.json").write_text(data.dumps())


def stored(tmp_path):
    """A store in a folder of its own that holds the study's scale and no cell."""
    store = Store.load(tmp_path / "docs" / "study.json")
    store.path.parent.mkdir(exist_ok=True)
    run._claim(store, STUDY)
    return store


@pytest.fixture
def cells_that_end(monkeypatch):
    """Cells end at once with their made-up losses; yields the cells that ran."""
    ran = []

    def run_cells(folder, cells, workers):
        for cell in cells:
            write_cell(folder, cell)
            ran.append(cell)

    monkeypatch.setattr(running, "run_cells", run_cells)
    return ran


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
    assert {(cell.seed, cell.tokens) for cell in cells_that_end} == {(0, STUDY.grid_tokens)}
    assert len({*cells_that_end}) == len(cells_that_end), "none ran twice"
    monkeypatch.setitem(BEST, "frozen", 1e9)
    write_data(tmp_path / "o")
    other = Store(tmp_path / "other.json", dict(store.content) | {"cells": {}})
    with pytest.raises(WorkFailedError, match=r"frozen: no best learning rate from 0\.00025 to .*"):
        tune(other, {"frozen": grids["frozen"]}, lambda cells: other.measure(tmp_path / "o", cells, 2))
    assert len(other.cells) == MAX_RATES


def test_the_page_follows_from_the_results(tmp_path, run_module, cells_that_end):
    write_data(tmp_path)
    store = stored(tmp_path)
    tune(store, grid(STUDY), lambda cells: store.measure(tmp_path, cells, 2))
    store.measure(tmp_path, by_seed(STUDY, BEST), workers=2)
    output = tmp_path / "docs" / "study.md"
    page.write(store, output)
    text = output.read_text()
    verdicts = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if " nats, perplexity" in line}
    assert "| confirmed | cpython: +0.5" in next(
        line for claim, line in verdicts.items() if "its decay frozen" in claim
    )
    assert "| no clear difference |" in next(
        line for claim, line in verdicts.items() if "scaling, Adafactor is better" in claim
    )
    assert "| nothing against it |" in next(line for claim, line in verdicts.items() if "costs nothing" in claim)
    assert "| 32 to 64: no clear difference; 64 to 128: the opposite |" in text
    assert "64 to 128: -0.200 ± 0.000 nats, perplexity × 0.82 |" in text
    assert "are not run yet" not in text and "| kernel, train | 7 | 4,000 | 2,000 | 4.10 |" in text
    plots = sorted((tmp_path / "docs" / "study").glob("*.svg"))
    assert len(plots) == 7 and all(f"study/{plot.name}" in text for plot in plots)
    first = [output.read_bytes(), *(plot.read_bytes() for plot in plots)]
    for plot in plots:
        plot.unlink()
    done = run_module("tools.study.page", f"--run_dir={tmp_path}/none", f"--output={output}")
    assert done.returncode == 0, done.stderr
    assert [output.read_bytes(), *(plot.read_bytes() for plot in plots)] == first, "written again from the results"
    curve = json.loads(store.path.read_text())["cells"][by_seed(STUDY, BEST)[0].name]["curve"]
    assert curve[0] == [1280, 8.95] and len(curve) == 50


def test_the_plots_say_what_they_show(tmp_path):
    rows = {f"{corpus}: {name}": {0: 5.0, 1: 5.2, 2: 5.1} for corpus in CORPORA for name in ("nanogpt", "frozen")}
    drawn = {"optimizers": rows, "contexts": {"128": {0: 5.0, 1: 5.2}, "256": {}}, "dropout": {}}
    drawn["embeddings"] = {"cpython: GPT-2": {0: 5.0}}
    (tmp_path / "dropout.svg").write_text("of before")
    losses = {"nanogpt": {"0.001": 6.0, "0.002": 5.0}, "algpt2": {"0.001": 6.0}, "muon": {}}
    figures.draw(losses, drawn, {label: [[100, 9.0], [200, 8.0]] for label in rows}, tmp_path)
    pictures = {file.stem: file.read_text() for file in tmp_path.glob("*.svg")}
    assert all("prefers-color-scheme: dark" in picture for picture in pictures.values())
    texts = {name: re.findall(r">([^<>]+)</text>", picture) for name, picture in pictures.items()}
    assert texts.keys() == {"rates", "tokens", "optimizers", "contexts", "embeddings"}
    assert {*CORPORA, "mean ± standard deviation of 3 seeds", "a seed"} < {*texts["optimizers"]}
    assert texts["optimizers"].count("nanogpt") == 3 and texts["optimizers"].count(figures.LOSS) == 1
    assert {"cpython", "context, tokens", "128"} < {*texts["contexts"]} and "256" not in texts["contexts"]
    assert {"learning rate", "nanogpt", "scaled, ALGPT2", "chosen", figures.LOSS} < {*texts["rates"]}
    assert {"tokens", *CORPORA, "frozen", "train loss, nats per token"} < {*texts["tokens"]}
    assert "a seed" not in texts["embeddings"], "one seed has no deviation"


def test_the_committed_page_is_that_of_the_committed_results(tmp_path):
    committed = ROOT / "docs"
    page.write(Store.load(committed / "study.json"), tmp_path / "study.md")
    assert (tmp_path / "study.md").read_text() == (committed / "study.md").read_text()
    drawn = {file.name: file.read_bytes() for file in (tmp_path / "study").glob("*.svg")}
    assert drawn == {file.name: file.read_bytes() for file in (committed / "study").glob("*.svg")}


def test_a_page_of_a_study_that_goes_on_says_what_is_missing(tmp_path, refused, run_module):
    output = tmp_path / "docs" / "study.md"
    assert "make study makes them" in refused("tools.study.page", f"--output={tmp_path}/page.md")
    assert "expected a file NAME.md" in refused("tools.study.page", f"--output={tmp_path}/none/page.md")
    write_data(tmp_path)
    store = stored(tmp_path)
    store.write()
    page.write(store, output)
    count = len(all_cells(dict.fromkeys(BEST, 0.0)))
    assert f"**{22 + count} cells are not run yet" in output.read_text()
    first = [cell for cell in by_seed(STUDY, BEST) if cell.seed == 0]
    for cell in first:
        write_cell(tmp_path, cell)
    tried = tmp_path / "tried.json"  # what a grid needs, to have runs of it
    shutil.copy(store.path, tried)
    other = Store.load(tried)
    for cell in grid(STUDY).values():
        while missing := other.missing(rate_grid(other, cell)):
            for one in missing:
                write_cell(tmp_path, one)
            other.collect(tmp_path, missing)
    done = run_module("tools.study.page", f"--run_dir={tmp_path}", f"--output={output}")
    assert done.returncode == 0, done.stderr
    text = output.read_text()
    assert f"**{len(all_cells()) - len(first)} cells are not run yet" in text
    assert "| not decided yet (1 of 3 seeds) | " in text
    assert all(
        (tmp_path / "docs/study" / f"{part}.svg").exists() == (f"(study/{part}.svg)" in text) for part in page.TITLES
    )


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


def test_a_verdict_names_its_pairs_where_they_differ():
    row = lambda *nats: Row(rate=1, parameters=1, flops=1, nats=dict(enumerate(nats)), bits={})  # noqa: E731
    rows = {"part": {"high": row(5.0, 5.1), "low": row(4.0, 4.1), "one": row(4.0), "none": None}}
    pairs = {lower: Pair(lower, "part", "high", lower) for lower in ("low", "one", "none")}
    assert Claim("", (pairs["low"], pairs["low"])).verdict(rows, 2)[0] == "confirmed"
    verdict, measured = Claim("", tuple(pairs.values())).verdict(rows, 2)
    assert verdict == "low: confirmed; one: not decided yet (1 of 2 seeds); none: not run yet"
    assert measured == "low: +1.000 ± 0.000 nats, perplexity × 2.72; one: +1.000 nats, perplexity × 2.72; none: —"
    assert Claim("", (pairs["low"],), equal=True).verdict(rows, 2)[0] == "not confirmed, a clear difference"
    assert Claim("", (Pair("", "part", "low", "high"),)).verdict(rows, 2)[0] == "the opposite"


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


CELLS = [Cell(seed=seed, tokens=8192, batch=8, context=64) for seed in range(4)]


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
