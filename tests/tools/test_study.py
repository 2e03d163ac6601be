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
from pipeline.errors import WorkFailedError
from pipeline.optimizers.build import CLASSES, build
from pipeline.optimizers.config import AdafactorConfig
from pipeline.optimizers.schedules import Schedule
from tests.helpers.places import ROOT
from tools.study import figures, page, results, running
from tools.study.cells import CORPORA, OPTIMIZERS, PACKINGS, Cell, StudyConfig, grid, parts
from tools.study.results import Difference
from tools.study.train import FrozenAdafactorConfig, frozen_adafactor
from tools.sweep import runner as runners

STUDY = StudyConfig(tokens=8192, seeds=3, batch=8, context=64)
BEST = {"adafactor": 4e-3, "frozen": 5e-4, "scaled": 4e-2, "adamw": 2e-3, "algpt2": 1e-3}


def all_cells():
    return dict.fromkeys(
        [cell for cells in grid(STUDY).values() for cell in cells]
        + [cell for rows in parts(STUDY, BEST).values() for cells in rows.values() for cell in cells]
    )


def test_cells_have_names_of_their_own_and_equal_tokens():
    cells = list(all_cells())
    assert len({cell.name for cell in cells}) == len(cells)
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
    """AdamW and the right Adafactor equal but for noise, the frozen one worse; E matters; a longer context is worse."""
    loss = 5.0 + 0.01 * ((cell.seed * 7 + len(cell.optimizer)) % 3) + 0.5 * (cell.optimizer == "frozen")
    best = BEST[cell.optimizer if cell.model == "gpt2" else "algpt2"]
    loss += 0.001 * abs(cell.rate - best) / best
    loss += (0.3 + 0.1 * (cell.embedding == 32)) * (cell.model == "algpt2")
    return loss + 0.2 * (cell.context == 128)


def write_cell(folder, cell):
    home = folder / "cells" / cell.name
    home.mkdir(parents=True)
    steps = [{"step": step, "tokens": 512 * step, "loss": 9 - step / 50} for step in range(1, 201)]
    (home / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    model = {"kind": "GPT2Config" if cell.model == "gpt2" else "ALGPT2Config", "layers": 3, "heads": 3, "width": 192}
    model |= {"context": cell.context, "vocabulary_size": 4096}
    figures = {"nats_per_token": made_up_loss(cell), "bits_per_byte": made_up_loss(cell) / 3}
    (home / "run.json").write_text(json.dumps({"model": model}))
    (home / "summary.json").write_text(json.dumps({"parameters": 2_000_000, "validation": figures}))
    for data in ("contiguous", "lines"):
        (home / f"evaluation-wikitext-{data}.json").write_text(json.dumps({"figures": figures}))


def write_data(folder):
    """Manifests of 2,000 positions to train on, 200 of them padding where lines are records."""
    for corpus in CORPORA:
        for packing, padding in (("contiguous", 0), ("lines", 200)):
            counts = {"documents": 7, "utf8_bytes": 4_000, "words": 900, "word_rule": "whitespace", "tail": ()}
            shard = manifest.Shard(file="x", records=16, bytes=16 * records.record_bytes(124), crc32c="0")
            part = manifest.Part(tokens=2_000, records=16, padding_tokens=padding, shards=(shard,), **counts)
            data = manifest.Manifest(
                corpus=manifest.Corpus(name=corpus, fingerprint="f", listing="l", seed=0, order="hash"),
                tokenizer=manifest.Tokenizer(name="t", fingerprint="f", vocabulary_size=4096, end_of_text=0),
                record=manifest.Record(context=124, bytes=records.record_bytes(124), packing=packing),
                parts={"train": part, "validation": part},
            )
            home = folder / "data" / f"{corpus}-{packing}"
            home.mkdir(parents=True)
            (home / "manifest.json").write_text(data.dumps())


def test_the_page_follows_from_the_runs(tmp_path, run_module):
    (tmp_path / "study.json").write_text(json.dumps(dataclasses.asdict(STUDY) | {"machine": "a machine"}))
    write_data(tmp_path)
    for cell in all_cells():
        write_cell(tmp_path, cell)
    assert results.best_rates(tmp_path, STUDY) == BEST
    page.write(tmp_path, tmp_path / "docs" / "study.md")
    text = (tmp_path / "docs" / "study.md").read_text()
    verdicts = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if " minus " in line}
    assert "| confirmed | " in next(line for claim, line in verdicts.items() if "its decay frozen" in claim)
    assert "no clear difference" in next(line for claim, line in verdicts.items() if "AdamW stays better" in claim)
    assert "nothing against it" in next(line for claim, line in verdicts.items() if "costs nothing" in claim)
    assert (
        "the opposite | 64 minus 128: -0.200 ± 0.000 nats, perplexity × 0.82 |" in text
        and "Machine: a machine." in text
    )
    assert "are not run yet" not in text
    curves = json.loads((tmp_path / "docs" / "study.json").read_text())["curves"]
    assert len(curves) == 8 and curves["cpython: adamw"][0] == [1280, 8.95] and len(curves["cpython: adamw"]) == 50
    assert "| wikitext, train, lines | 7 | 2,000 | 4.10 | 10.0% | 0.0% |" in text
    bits = {line.split(" | ")[0]: line.split(" | ")[-1] for line in text.splitlines() if ", scored on " in line}
    assert bits["| trained on contiguous, scored on lines"] == bits["| trained on lines, scored on lines"] == "— |"
    assert bits["| trained on lines, scored on contiguous"] != "— |"
    plots = sorted((tmp_path / "docs" / "study").glob("*.svg"))
    assert len(plots) == 8 and all(f"study/{plot.name}" in text for plot in plots)
    first = [plot.read_bytes() for plot in plots]
    page.write(tmp_path, tmp_path / "docs" / "study.md")
    assert [plot.read_bytes() for plot in plots] == first
    for plot in plots:
        plot.unlink()
    done = run_module("tools.study.page", "--run_dir=", f"--output={tmp_path}/docs/study.md")
    assert done.returncode == 0, done.stderr
    assert [plot.read_bytes() for plot in plots] == first, "drawn again from what stands beside the page"


def test_the_plots_say_what_they_show(tmp_path):
    rows = {f"{corpus}: {name}": {"0": 5.0, "1": 5.2, "2": 5.1} for corpus in CORPORA for name in ("adamw", "frozen")}
    packing = {f"trained on {one}, scored on {other}": {"0": 5.0} for one in PACKINGS for other in PACKINGS}
    parts = {
        "optimizers": rows,
        "contexts": {"128": {"0": 5.0, "1": 5.2}, "256": {}},
        "batches": {"4 × 0.001": {"0": 5.0, "1": 5.2}, "4 × 0.002": {"0": 5.0}, "8 × 0.001": {"0": 6.0}},
        "dropout": {},
        "packing": packing,
    }
    (tmp_path / "dropout.svg").write_text("of before")
    stored = {"corpus": "wikitext", "grid": {"adamw": {"0.001": 6.0, "0.002": 5.0}, "algpt2": {"0.001": 6.0}}}
    curves = {label: [[100, 9.0], [200, 8.0]] for label in rows}
    figures.draw(stored | {"parts": parts, "curves": curves}, tmp_path)
    drawn = {file.stem: file.read_text() for file in tmp_path.glob("*.svg")}
    assert all("prefers-color-scheme: dark" in picture for picture in drawn.values())
    texts = {name: re.findall(r">([^<>]+)</text>", picture) for name, picture in drawn.items()}
    assert texts.keys() == {"rates", "tokens", "optimizers", "contexts", "batches", "packing"}
    assert {"wikitext", "cpython", "mean ± standard deviation of 3 seeds", "a seed"} < {*texts["optimizers"]}
    assert texts["optimizers"].count("adamw") == 2 and texts["optimizers"].count(figures.LOSS) == 1
    assert {"wikitext", "context, tokens", "128"} < {*texts["contexts"]} and "256" not in texts["contexts"]
    assert {"learning rate", "4 sequences", "8 sequences", figures.LOSS} < {*texts["batches"]}
    assert {"learning rate", "adamw", "adafactor, ALGPT2", "chosen", figures.LOSS} < {*texts["rates"]}
    assert {"tokens", "wikitext", "cpython", "frozen", "train loss, nats per token"} < {*texts["tokens"]}
    assert {f"wikitext, scored on {packing}" for packing in PACKINGS} < {*texts["packing"]}
    assert "a seed" not in texts["packing"], "one seed has no deviation"


def test_the_committed_plots_are_those_of_the_stored_figures(tmp_path):
    figures.draw(json.loads((ROOT / "docs" / "study.json").read_text()), tmp_path)
    drawn = {file.name: file.read_bytes() for file in tmp_path.glob("*.svg")}
    assert drawn == {file.name: file.read_bytes() for file in (ROOT / "docs" / "study").glob("*.svg")}


def test_a_page_of_a_study_that_goes_on_says_what_is_missing(tmp_path, refused):
    (tmp_path / "study.json").write_text(json.dumps(dataclasses.asdict(STUDY)))
    assert "make study" in refused("tools.study.page", f"--run_dir={tmp_path}/none")
    assert "there is no" in refused("tools.study.page", "--run_dir=", f"--output={tmp_path}/page.md")
    assert "20 cells of the grid" in refused("tools.study.page", f"--run_dir={tmp_path}")
    for cells in grid(STUDY).values():
        for cell in cells:
            write_cell(tmp_path, cell)
    write_data(tmp_path)
    page.write(tmp_path, tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    assert "cells are not run yet" in text
    assert "| not run yet | 64 minus 128: — |" in text and "not decided yet: 1 of 3 seeds |" in text
    assert all((tmp_path / "page" / f"{part}.svg").exists() == (f"(page/{part}.svg)" in text) for part in page.TITLES)


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


def test_mistakes_are_one_sentence(refused, tmp_path):
    command = ("tools.study.run", f"--run_dir={tmp_path}/study", "--page=")
    assert "--wikitext is missing" in refused(*command)
    assert "multiple of 2 × batch × context" in refused(*command, "--gin_param=study.tokens=1000")
    assert "did you mean 'seeds'" in refused(*command, "--gin_param=study.seed=1")
    assert "the study sets it in its cells" in refused(*command, "--gin_param=train.steps=1")
    assert "there is no flag --gin_file" in refused(*command, "--gin_file=gpt2.gin")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "study.json").write_text(json.dumps(dataclasses.asdict(STUDY)))
    assert "tokens = 8192, not 524288" in refused(command[0], f"--run_dir={tmp_path}/other", "--page=")
