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
import sys
from types import FrameType
from typing import NoReturn

from absl import flags

from pipeline import cli, storage
from pipeline.config import gin_reader
from pipeline.errors import UserError
from tools.bench import machine
from tools.study.cells import CORPORA, PACKINGS, Cell, StudyConfig, grid, parts
from tools.study.results import best_rates, summary_path
from tools.study.running import is_made, make_data, module, run_cells

FLAGS = flags.FLAGS
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
    run_cells(folder, itertools.chain(*grid(study).values()), study.workers)
    rows = parts(study, best_rates(folder, study))
    run_cells(folder, (cell for row in rows.values() for seeds in row.values() for cell in seeds), study.workers)
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
    if not (FLAGS.wikitext or is_made(folder, "wikitext-lines")):
        raise UserError("--wikitext is missing; expected WikiText's raw files, such as 'wikitext-2-raw/wiki.*.raw'")
    for corpus in CORPORA:
        for packing, context in (("contiguous", 2 * study.context), ("lines", study.context)):
            make_data(folder, corpus, packing, context, source=FLAGS.wikitext)


def _score(folder: pathlib.Path, cell: Cell, data: str) -> None:
    path = summary_path(folder, cell).with_name(f"evaluation-{data}.json")
    if path.exists():
        return
    printed = module("pipeline.evaluate", f"--run_dir={path.parent}", f"--data={folder}/data/{data}")
    storage.replace_bytes(printed.encode(), str(path))


def define_flags() -> None:
    """Defines the flags."""
    cli.define_gin_param_flag()
    cli.define_path("wikitext", None, "WikiText's raw files: a path or a glob.")
    cli.define_path("run_dir", "runs/study", "Where the cells' runs are kept.")
    cli.define_path("page", "docs/study.md", "The page to write; empty for none.")


if __name__ == "__main__":
    cli.run(main, define_flags)
