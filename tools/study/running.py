"""Makes the study's corpora and runs its cells, some at a time; both resume after a kill."""

import pathlib
import subprocess
import sys
from collections.abc import Iterable

from pipeline.errors import WorkFailedError
from tools.study.cells import VOCABULARY, Cell
from tools.study.results import summary_path
from tools.sweep.ledger import DONE, FAILED, Ledger
from tools.sweep.runner import Runner

ONE_THREAD = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1", "OMP_NUM_THREADS": "1"}
VALIDATION = {"cpython": 0.03, "kernel": 0.015, "wikitext": 0.1}  # shares of the documents: about 100,000 tokens
SOURCES = {
    "cpython": ["--gin_file=datasets/cpython.gin"],
    "kernel": ["--gin_file=datasets/text.gin", "--gin_param=shard.name=kernel"],
    "wikitext": [
        "--gin_file=datasets/text.gin",
        "--gin_param=shard.documents=article",
        "--gin_param=shard.name=wikitext",
    ],
}


def is_made(folder: pathlib.Path, name: str) -> bool:
    """Returns whether a data set exists."""
    return (folder / name / "manifest.json").exists()


def make_data(folder: pathlib.Path, corpus: str, context: int, source: str | None = None) -> None:
    """Makes ``folder``/CORPUS and, if missing, the corpus's tokenizer, unless the data set exists.

    Args:
        folder: holds the data sets and tokenizers.
        corpus: a key of ``SOURCES``.
        context: tokens per record.
        source: the files of a corpus that does not come with this machine.
    """
    tokenizer = folder / f"{corpus}.json"
    if is_made(folder, corpus):
        return
    sources = SOURCES[corpus] + ([f"--source={source}"] if source else [])
    if not tokenizer.exists():
        module("pipeline.tokenizer", *sources, f"--size={VOCABULARY}", f"--output={tokenizer}")
    settings = {"tokenizer": tokenizer, "context": context, "shards": 8, "validation_fraction": VALIDATION[corpus]}
    overrides = [f"--gin_param=shard.{key}={value}" for key, value in settings.items()]
    module("pipeline.shard", *sources, *overrides, f"--output={folder}/{corpus}")


def module(name: str, *arguments: str) -> None:
    """Runs one of the project's commands."""
    done = subprocess.run([sys.executable, "-m", name, *arguments], check=False, stdout=subprocess.PIPE)
    if done.returncode == 2:  # the error is already printed
        raise SystemExit(2)
    if done.returncode:
        raise WorkFailedError(f"{name} ended with exit code {done.returncode}")


def run_cells(folder: pathlib.Path, cells: Iterable[Cell], workers: int) -> None:
    """Runs the cells without a result, some at a time, each in a process with one thread.

    Args:
        folder: the run directory; data sets are in ``data``, runs in ``cells``.
        cells: in starting order.
        workers: cells to run in parallel.

    Raises:
        SystemExit: a signal stopped it.
        WorkFailedError: some cells failed; all others ran. The message names their logs.
    """
    missing = [cell for cell in dict.fromkeys(cells) if not summary_path(folder, cell).exists()]
    runner = Runner(
        ["-m", "tools.study.train", "--gin_file=study.gin"],
        Ledger(str(folder / "ledger")),
        str(folder),
        again=(DONE, FAILED),  # done: someone removed the result
        parallel=workers,
        environment=ONE_THREAD,
    )
    runner.run([cell.job(folder / "data") for cell in missing])
    if runner.stopped:
        sys.exit(128 + runner.stopped)
    failed = [str(folder / "cells" / f"{cell.name}.log") for cell in missing if not summary_path(folder, cell).exists()]
    if failed:
        raise WorkFailedError(f"{len(failed)} cells failed; see {', '.join(failed[:3])}")
