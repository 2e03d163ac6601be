r"""Runs a sweep: every combination of lists, samples, grids and seeds, each completed once.

    python -m tools.sweep --gin_file=algpt2.gin --data=… \
        --run_dir=runs/sweep --seeds=3 --grid='model=[algpt2,gpt2]' \
        --grid='Adafactor.learning_rate=[8e-2,4e-2,2e-2]'
    python -m tools.sweep … --random=20 --worker=0/4 \
        --sample='Adafactor.learning_rate=log(1e-2,1e-1)'
    python -m tools.sweep --run_dir=runs/sweep --table

The same command resumes a stopped sweep: finished cells are skipped, unfinished ones resume. It ends with a table, best
first, and ``sweep.csv``. The exit code is 1 if a cell failed, 128 plus the signal's number if a signal stopped it.
"""

import os
import pathlib
import re
import sys
from collections.abc import Iterable, Mapping
from itertools import chain

from absl import flags

from pipeline import cli, storage
from pipeline.config import gin_reader
from pipeline.config.run_config import check_visible, note_overridden_slice, place
from pipeline.data.format import manifest
from pipeline.devices import tpu_target
from pipeline.errors import UserError, WorkFailedError
from tools.sweep import agents, axes, fitting, table
from tools.sweep.cells import Base, Cell, resolve
from tools.sweep.ledger import DONE, FAILED, MISFIT, Ledger
from tools.sweep.runner import Runner

FLAGS = flags.FLAGS
MOST_SHOWN, FIRST_SHOWN = 200, 10  # cells in a dry run
MANY = 500  # cells; checking them takes seconds
SIGNALLED = 128  # plus the signal's number: the exit code of a command ended by a signal, as in shells


def main(*overrides: str) -> int:
    """Runs, lists or tabulates the sweep."""
    cli.required("run_dir", "a directory for the sweep, local or gs://")
    ledger = Ledger(storage.join(FLAGS.run_dir, "ledger"))
    if FLAGS.table:
        return _finish([], ledger)
    only_printed = FLAGS.dry_run or FLAGS.wandb_sweep
    reads_data = FLAGS.data and not (only_printed and storage.is_remote(FLAGS.data))
    base = Base(
        gin_files=tuple(cli.required("gin_file", "a run such as algpt2.gin")),
        gin_params=tuple(FLAGS.gin_param),
        data=FLAGS.data or "",
        tpu=FLAGS.tpu,
        manifest=manifest.load(FLAGS.data) if reads_data else None,
    )
    worker, workers = _worker()
    cells = _cells(base, overrides)
    if FLAGS.wandb_sweep:
        return 0
    if FLAGS.dry_run:
        _show(cells)
        return 0
    cli.required("data", "a directory or a gs:// address (or --dry_run)")
    configuration = gin_reader.load(base.gin_files, base.gin_params)
    note_overridden_slice(configuration, FLAGS.tpu)
    target = tpu_target.resolve(place(configuration, FLAGS.tpu))
    check_visible(target, data=FLAGS.data, run_dir=FLAGS.run_dir)
    compiled_for = target.slice if FLAGS.preflight else None
    if compiled_for:
        fitting.require_compiler()
    _claim_directory()
    if not overrides:
        os.environ.pop("WANDB_RUN_ID", None)  # of a single run that a Weights & Biases agent starts
    print(f"{len(cells):,} cells")
    first = worker * len(cells) // workers
    cells = cells[first:] + cells[:first]
    if compiled_for:
        ended = {key for key, entry in ledger.entries().items() if entry["state"] in (DONE, MISFIT)}
        fitting.record_misfits(cells, ledger, compiled_for, ended)
    command = ["-m", "pipeline.train", *([f"--tpu={FLAGS.tpu}"] if FLAGS.tpu else []), f"--data={FLAGS.data}"]
    runner = Runner(command, ledger, FLAGS.run_dir, again=(FAILED,) if FLAGS.retry_failed else ())
    runner.run(cells)
    if runner.stopped:
        print("stopped; the same command continues", file=sys.stderr)
        return SIGNALLED + runner.stopped
    return _finish(cells, ledger)


def _show(cells: list[Cell]) -> None:
    """Lists the cells, or the first ones if there are very many."""
    shown = cells if len(cells) <= MOST_SHOWN else cells[:FIRST_SHOWN]
    print("\n".join(cell.label for cell in shown))
    if len(shown) < len(cells):
        print(f"… and {len(cells) - len(shown):,} more: {len(cells):,} cells")


def _claim_directory() -> None:
    """Rejects an unwritable directory or one that holds something else, before any work."""
    directory = FLAGS.run_dir
    if storage.is_remote(directory):
        storage.check_writable(directory)
        return
    try:
        os.makedirs(directory, exist_ok=True)
        if os.listdir(directory) and not os.path.isdir(os.path.join(directory, "ledger")):
            raise UserError(
                f"--run_dir={directory} holds files that are not a sweep; expected a new or empty directory"
            )
    except OSError as error:
        raise UserError(f"--run_dir={directory} cannot be written to ({error.strerror})") from None


def _cells(base: Base, overrides: tuple[str, ...]) -> list[Cell]:
    grid = [axes.grid_axis(text) for text in FLAGS.grid]
    samples = [axes.sample_axis(text) for text in FLAGS.sample]
    if bool(samples) != bool(FLAGS.random):
        raise UserError("--random=N and --sample go together: the number of cells, and the settings to draw")
    for flag in ("random", "seeds"):
        if getattr(FLAGS, flag) < 0:
            raise UserError(f"--{flag}={getattr(FLAGS, flag)}: expected a number of cells")
    names = [axis.name for axis in (*grid, *samples)]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{name} is in --grid or --sample twice; expected each setting once")
    fixed: axes.Overrides = {}
    for text in overrides:
        fixed |= axes.fixed(text)
    listed = axes.read_list(FLAGS.list) if FLAGS.list else []
    if FLAGS.wandb_sweep:
        if listed or fixed:
            raise UserError("--wandb_sweep takes --grid, --sample and --seeds; a list is none of its methods")
        wandb_sweep = agents.configuration(base, FLAGS.run_dir, [*samples, *grid], seeds=FLAGS.seeds)
    combinations = axes.combine(
        listed, grid, samples, count=max(1, FLAGS.random), seed=FLAGS.sample_seed, seeds=FLAGS.seeds
    )
    if len(combinations) > MANY:
        print(f"checking {len(combinations):,} cells", file=sys.stderr)
    given = {"grid": [axis.name for axis in grid], "sample": [axis.name for axis in samples], "list": [*chain(*listed)]}
    try:
        cells = resolve(base, [fixed | cell for cell in combinations])
    except UserError as error:
        raise UserError(_as_given(str(error), given)) from None
    if FLAGS.wandb_sweep:
        try:
            pathlib.Path(FLAGS.wandb_sweep).write_text(wandb_sweep, encoding="utf-8")
        except OSError as error:
            raise UserError(f"--wandb_sweep={FLAGS.wandb_sweep} cannot be written ({error.strerror})") from None
        print(f"wrote {FLAGS.wandb_sweep}; start it with: wandb sweep {FLAGS.wandb_sweep}")
    return cells


def _as_given(message: str, given: Mapping[str, Iterable[str]]) -> str:
    """Names the flag that gave the sweep a setting, not the one with which a cell passes it on."""
    for flag, names in given.items():
        for name in names:
            message = message.replace(f"--gin_param={name}=", f"--{flag}: {name}=")
    return message


def _worker() -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", FLAGS.worker)
    worker, workers = (int(number) for number in match.groups()) if match else (1, 0)
    if not worker < workers:
        raise UserError(f"--worker={FLAGS.worker}: expected I/N with I from 0 to N-1, such as 0/4")
    return worker, workers


def _finish(cells: list[Cell], ledger: Ledger) -> int:
    rows = table.rows(cells, ledger.entries())
    if not rows:
        raise UserError(f"--run_dir={FLAGS.run_dir} holds no sweep")
    path = storage.join(FLAGS.run_dir, "sweep.csv")
    storage.replace_bytes(table.as_csv(rows).encode(), path)
    print(f"\n{table.as_text(rows)}\nwrote {path}")
    failed = [row for row in rows if row["state"] in (FAILED, MISFIT)]
    for row in failed:
        print(f"{row['state']}: {row['cell']}  {row['reason']}")
    if any(row["state"] == FAILED for row in failed):
        raise WorkFailedError(f"{len(failed)} of {len(rows)} cells have no result; --retry_failed runs them again")
    return 0


def define_flags() -> None:
    """Defines the flags."""
    cli.define_gin_flags()
    flags.DEFINE_multi_string("grid", [], "NAME=[VALUE,VALUE]: every combination with the others.")
    cli.define_path("list", None, 'A file of JSON lines {"NAME": VALUE}, one cell per line.')
    flags.DEFINE_integer("random", 0, "The number of cells to draw from --sample.")
    flags.DEFINE_multi_string("sample", [], "NAME=log(LOW,HIGH), uniform(…), int(…) or [VALUE,VALUE].")
    flags.DEFINE_integer("sample_seed", 0, "Seed of the samples.")
    flags.DEFINE_integer("seeds", 0, "Runs per combination, with train.seed = 0, 1, …; 0 leaves the seed alone.")
    cli.define_path("data", None, "Directory of shards with a manifest, local or gs://.")
    cli.define_tpu_flag("As for pipeline.train.")
    cli.define_path("run_dir", None, "The sweep's directory, local or gs://: ledger/, cells/, sweep.csv.")
    flags.DEFINE_string(
        "worker", "0/1", "I/N: the I-th of N workers on one run_dir; each takes cells that no other has."
    )
    flags.DEFINE_bool("preflight", True, "First compile for the slice of --tpu; cells that do not fit do not run.")
    flags.DEFINE_bool("retry_failed", False, "Rerun cells that failed before.")
    flags.DEFINE_bool("dry_run", False, "List the cells and stop.")
    flags.DEFINE_bool("table", False, "Print the table of what has run, and stop.")
    cli.define_path("wandb_sweep", None, "Write a file for `wandb sweep`, whose agents then run the cells.")


if __name__ == "__main__":
    cli.run(main, define_flags)
