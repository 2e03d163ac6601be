r"""Writes one HTML page about a run, several runs to compare, or a sweep; reading it needs no network.

    python -m tools.report --run_dir=runs/a [--run_dir=runs/b …] \
        --output=report.html [--png] [--svg]
    python -m tools.report --run_dir=runs/sweep --output=sweep.html

A run writes this page into its own directory when it ends, as ``report.html``. Long curves are thinned: each stretch of
records keeps its lowest and its highest, so no spike is lost.
It does not import TensorFlow. The exit code is 2 if a directory is neither a run nor a sweep.
"""

import importlib.util
import pathlib

from absl import flags

from pipeline import cli, storage
from pipeline.errors import UserError, pip_install
from pipeline.progress import counted
from pipeline.report import charts, page
from pipeline.report.read import read
from tools.report import pictures, sweeps

FLAGS = flags.FLAGS


def main() -> None:
    """Reads every run, then writes the page."""
    cli.required("run_dir", "a directory that pipeline.train or tools.sweep wrote (it repeats)")
    cli.required("output", "a file such as report.html")
    output = pathlib.Path(FLAGS.output)
    if output.suffix != ".html" or not output.absolute().parent.is_dir():
        raise UserError(f"--output={output}: expected a file FILE.html in a directory that exists")
    if len(set(FLAGS.run_dir)) < len(FLAGS.run_dir):
        raise UserError("--run_dir names a run twice; expected each once")
    formats = [name for name in ("png", "svg") if FLAGS[name].value]
    if formats and not importlib.util.find_spec("matplotlib"):
        raise UserError(f"--{formats[0]} needs matplotlib; {pip_install('-r requirements-plots.txt')}")
    sweep = sweeps.read_sweep(FLAGS.run_dir)
    runs = sweep.runs if sweep else [read(directory) for directory in FLAGS.run_dir]
    figures = charts.figures(runs)
    of_sweep = (sweep.figures, sweep.name, sweep.table) if sweep else ()
    text = page.page(runs, figures, *of_sweep)
    storage.replace_bytes(text.encode(), str(output))
    what = f"a sweep of {counted(sweep.cells, 'cell')}" if sweep else counted(len(runs), "run")
    print(f"wrote {output}: {what}, {output.stat().st_size / 1e6:.2f} MB")
    for path in pictures.write(runs, figures, sweep.figures if sweep else [], output, formats) if formats else []:
        print(f"wrote {path}")


def define_flags() -> None:
    """Defines the flags."""
    cli.define_paths("run_dir", "A run directory or a sweep's, local or gs://.")
    cli.define_path("output", None, "The page, FILE.html.")
    flags.DEFINE_bool("png", False, "Also write each figure as FILE-NAME.png, with matplotlib.")
    flags.DEFINE_bool("svg", False, "Also write each figure as FILE-NAME.svg, with matplotlib.")


if __name__ == "__main__":
    cli.run(main, define_flags)
