r"""Runs the study cell by cell and writes its page. If killed, the same command resumes with the missing cells.

    make study KERNEL=linux-doc/html/_sources \
        WIKITEXT='wikitext-2-raw/wiki.*.raw'
    python -m tools.study.run --kernel=DIRECTORY --wikitext=GLOB \
        [--run_dir=runs/study] [--page=docs/study.md]

Results are stored beside the page, as JSON; stored cells do not run again. The first seed of all cells runs first. The
corpora: CPython's documentation and library come with Python. The Linux kernel's documentation is the folder
``html/_sources`` of Debian's package linux-doc-6.1, version 6.1.176-1
(SHA-256 0d843674607703b9ef8c1db5e715c38ed52ff23574feabfe0d961d552126859f), unpacked by ``dpkg-deb -x``. WikiText-2's
texts are its validation and test parts.
"""

import dataclasses
import pathlib

from absl import flags

from pipeline import cli, stop_signals
from pipeline.config import gin_reader
from pipeline.errors import UserError
from tools import plots
from tools.study import page
from tools.study.cells import CORPORA, Cell, StudyConfig, grid
from tools.study.running import is_made, make_data
from tools.study.store import Store
from tools.study.tuning import by_seed, planned, tune

FLAGS = flags.FLAGS
EXPECTED = {
    "kernel": "the Linux kernel's documentation, such as 'linux-doc/html/_sources' (tools/study/run.py says whence)",
    "wikitext": "WikiText's raw files, such as 'wikitext-2-raw/wiki.*.raw'",
}
SCALE = ("tokens", "grid_tokens", "seeds", "batch", "context")
gin_reader.SURFACES["study"] = StudyConfig


def main() -> int:
    """Makes the data, runs what is missing and writes the page."""
    stop_signals.exit_on_sigterm()  # as Ctrl-C: stops the cells
    study = gin_reader.load(["study.gin"], FLAGS.gin_param).get(StudyConfig)
    for parameter in FLAGS.gin_param:
        if not parameter.startswith("study."):
            raise UserError(f"--gin_param={parameter}: the study sets it in its cells; expected study.tokens=… or such")
    output, folder = plots.page_of("page"), pathlib.Path(FLAGS.run_dir)
    store = Store.load(output.with_suffix(".json"))
    _claim(store, study)
    _make_data(folder / "data", store, study)

    def measure(cells: list[Cell]) -> None:
        store.measure(folder, cells, study.workers)

    try:
        measure(by_seed(study, tune(store, grid(study), measure)))
    finally:
        page.write(store, output)
    return 0


def _claim(store: Store, study: StudyConfig) -> None:
    """Stores the study's scale, or rejects a page with cells of another scale."""
    scale = {name: value for name, value in dataclasses.asdict(study).items() if name in SCALE}
    stored = store.content.setdefault("study", scale)
    differing = [f"{key} = {stored.get(key)}, not {scale[key]}" for key in SCALE if stored.get(key) != scale[key]]
    if differing:
        raise UserError(f"{store.path} holds a study with {'; '.join(differing)}: choose another --page")


def _make_data(folder: pathlib.Path, store: Store, study: StudyConfig) -> None:
    """Makes the missing cells' data; UserError if that needs files that are not given."""
    sources = {"cpython": None, "kernel": FLAGS.kernel, "wikitext": FLAGS.wikitext}
    missing = [name for name in CORPORA if name in {cell.corpus for cell in store.missing(planned(store, study))}]
    for corpus in missing:
        if corpus in EXPECTED and not (sources[corpus] or is_made(folder, corpus)):
            raise UserError(f"--{corpus} is missing; expected {EXPECTED[corpus]}")
    for corpus in missing:
        make_data(folder, corpus, max(study.contexts), source=sources[corpus])


def define_flags() -> None:
    """Defines the flags."""
    cli.define_gin_param_flag()
    cli.define_path("kernel", None, "The Linux kernel's documentation: a folder of .txt files.")
    cli.define_path("wikitext", None, "WikiText's raw files: a path or a glob.")
    cli.define_path("run_dir", "runs/study", "The directory for the cells' runs.")
    cli.define_path("page", "docs/study.md", "The page to write; its results are beside it, as JSON.")


if __name__ == "__main__":
    cli.run(main, define_flags)
