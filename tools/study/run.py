"""Runs the study cell by cell and writes its page. If killed, the same command continues with the missing cells.

    make study WIKITEXT='wikitext-2-raw/wiki.*.raw'
    python -m tools.study.run --wikitext=GLOB [--run_dir=runs/study] [--gin_param=study.tokens=65536] [--page=FILE]

The cells run as those of a sweep do; one is done when its directory has a summary.json.
"""

import dataclasses
import itertools
import json
import pathlib
import signal
import subprocess
import sys
from collections.abc import Iterable
from types import FrameType
from typing import NoReturn

from absl import flags

from pipeline import cli, storage
from pipeline.config import gin_reader
from pipeline.errors import UserError, WorkFailedError
from tools.bench import machine
from tools.study.cells import CORPORA, PACKINGS, VOCABULARY, Cell, StudyConfig, grid, parts
from tools.study.results import best_rates, summary_path
from tools.sweep.ledger import DONE, FAILED, Ledger
from tools.sweep.runner import Runner

FLAGS = flags.FLAGS
ONE_THREAD = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1", "OMP_NUM_THREADS": "1"}
VALIDATION = {"wikitext": 0.1, "cpython": 0.03}  # shares of the articles and files: about 100,000 tokens
SCALE = ("tokens", "seeds", "batch", "context")
gin_reader.SURFACES["study"] = StudyConfig


def main() -> int:
    """Makes the data, runs what is missing and writes the page."""
    signal.signal(signal.SIGTERM, _end)
    study = gin_reader.load(["study.gin"], FLAGS.gin_param).get(StudyConfig)
    for parameter in FLAGS.gin_param:
        if not parameter.startswith("study."):
            raise UserError(f"--gin_param={parameter}: the study sets it in its cells; expected study.tokens=… or such")
    folder = pathlib.Path(FLAGS.run_dir)
    _claim(folder, study)
    _make_data(folder / "data", study)
    _run(folder, study, itertools.chain(*grid(study).values()))
    rows = parts(study, best_rates(folder, study))
    _run(folder, study, (cell for row in rows.values() for seeds in row.values() for cell in seeds))
    for packing in PACKINGS:  # both models on both validation sets: the same text, the same normaliser
        for cell in rows["packing"][packing]:
            for other in PACKINGS:
                _score(folder, cell, f"{cell.corpus}-{other}")
    if FLAGS.page:
        from tools.study import page

        page.write(folder, pathlib.Path(FLAGS.page))
    return 0


def _end(number: int, frame: FrameType | None) -> NoReturn:
    """Ends the study on SIGTERM as Ctrl-C does: its cells are told to stop, and the exit code is not 0."""
    sys.exit(128 + number)


def _claim(folder: pathlib.Path, study: StudyConfig) -> None:
    """Records the study's scale, or refuses a directory with cells of another scale."""
    scale, path = dataclasses.asdict(study), folder / "study.json"
    if path.exists():
        recorded = json.loads(path.read_text(encoding="utf-8"))
        differing = [
            f"{key} = {recorded.get(key)}, not {scale[key]}" for key in SCALE if recorded.get(key) != scale[key]
        ]
        if differing:
            raise UserError(f"--run_dir={folder} holds a study with {'; '.join(differing)}: choose another directory")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(scale | {"machine": machine()}) + "\n")


def _make_data(folder: pathlib.Path, study: StudyConfig) -> None:
    sources: dict[str, list[str]] = {"cpython": ["--gin_file=datasets/cpython.gin"]}
    sources["wikitext"] = ["--gin_file=datasets/text.gin", "--gin_param=shard.documents=article"]
    sources["wikitext"] += ["--gin_param=shard.name=wikitext"]
    if FLAGS.wikitext:
        sources["wikitext"].append(f"--source={FLAGS.wikitext}")
    elif not (folder / "wikitext-lines" / "manifest.json").exists():
        raise UserError("--wikitext is missing; expected WikiText's raw files, such as 'wikitext-2-raw/wiki.*.raw'")
    for corpus in CORPORA:
        if (folder / f"{corpus}-lines" / "manifest.json").exists():
            continue
        tokenizer = folder / f"{corpus}.json"
        _module("pipeline.tokenizer", *sources[corpus], f"--size={VOCABULARY}", f"--output={tokenizer}")
        for packing, context in (("contiguous", 2 * study.context), ("lines", study.context)):
            settings = {"tokenizer": tokenizer, "packing": packing, "context": context, "shards": 8}
            settings |= {"validation_fraction": VALIDATION[corpus]}
            overrides = [f"--gin_param=shard.{name}={value}" for name, value in settings.items()]
            _module("pipeline.shard", *sources[corpus], *overrides, f"--output={folder}/{corpus}-{packing}")


def _module(module: str, *arguments: str) -> str:
    """Runs one of the project's commands and returns what it prints."""
    done = subprocess.run([sys.executable, "-m", module, *arguments], check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode == 2:  # the error is already printed
        raise SystemExit(2)
    if done.returncode:
        raise WorkFailedError(f"{module} ended with exit code {done.returncode}")
    return done.stdout


def _run(folder: pathlib.Path, study: StudyConfig, cells: Iterable[Cell]) -> None:
    """Runs the cells that have no result yet, some at a time, each in a process of one thread.

    Raises:
        WorkFailedError: some cells failed; all others were run. The message names their logs.
    """
    missing = [cell for cell in dict.fromkeys(cells) if not summary_path(folder, cell).exists()]
    runner = Runner(
        ["-m", "tools.study.train", "--gin_file=study.gin"],
        Ledger(str(folder / "ledger")),
        str(folder),
        again=(DONE, FAILED),  # done: somebody has removed the result
        parallel=study.workers,
        environment=ONE_THREAD,
    )
    runner.run([cell.job(study, folder / "data") for cell in missing])
    if runner.stopped:
        sys.exit(128 + runner.stopped)
    failed = [str(folder / "cells" / f"{cell.name}.log") for cell in missing if not summary_path(folder, cell).exists()]
    if failed:
        raise WorkFailedError(f"{len(failed)} cells failed; see {', '.join(failed[:3])}")


def _score(folder: pathlib.Path, cell: Cell, data: str) -> None:
    path = summary_path(folder, cell).with_name(f"evaluation-{data}.json")
    if path.exists():
        return
    printed = _module("pipeline.evaluate", f"--run_dir={path.parent}", f"--data={folder}/data/{data}")
    storage.replace_bytes(printed.encode(), str(path))


def define_flags() -> None:
    """Defines the flags."""
    cli.define_gin_param_flag()
    cli.define_path("wikitext", None, "WikiText's raw files: a path or a glob.")
    cli.define_path("run_dir", "runs/study", "Where the cells' runs are kept.")
    cli.define_path("page", "docs/study.md", "The page to write; empty for none.")


if __name__ == "__main__":
    cli.run(main, define_flags)
