"""Pictures for committed pages and reports: SVG with text and CSS, the same bytes for the same figures."""

import io
import pathlib
from types import ModuleType
from typing import Any

from absl import flags

from pipeline import cli
from pipeline.errors import UserError, pip_install

# For readers who prefer dark colors: matplotlib writes each color into its element, except black text.
DARK = """<style>@media (prefers-color-scheme: dark) {
 text { fill: #e3e8ec } [style*="fill: #ffffff"] { fill: #14181c !important }
 [style*="stroke: #000000"] { stroke: #97a3ae !important } [style*="stroke: #dddddd"] { stroke: #333c44 !important }
}</style>
"""
GRID = "#dddddd"  # of lines that DARK darkens


def page_of(flag: str) -> pathlib.Path:
    """Returns the page that a flag names, before hours of work on it.

    Raises:
        UserError: it is not a writable Markdown file, or matplotlib, for its pictures, is not installed.
    """
    name = flags.FLAGS[flag].value or ""
    if not name.endswith(".md"):
        raise UserError(f"--{flag}={name}: expected a file NAME.md")
    cli.check_files(flag)
    page = pathlib.Path(name)
    svg_pyplot(page.stem)
    return page


def svg_pyplot(page: str) -> ModuleType:
    """Returns matplotlib.pyplot, set up to draw a page's SVG; UserError if matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError as error:
        raise UserError(f"the plots need matplotlib: {pip_install('-r requirements-plots.txt')}") from error
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = page  # its identifiers would be random otherwise
    matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text
    matplotlib.rcParams["font.family"] = "sans-serif"
    matplotlib.rcParams["figure.constrained_layout.w_pad"] = 0.08  # inches
    matplotlib.rcParams["figure.constrained_layout.h_pad"] = 0.08
    from matplotlib import pyplot

    return pyplot


def save_svg(figure: Any, file: pathlib.Path) -> None:
    """Writes a figure of ``svg_pyplot``, dark for readers who prefer that."""
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    file.write_text(drawn.getvalue().replace("<defs>", f"{DARK}<defs>", 1), encoding="utf-8")
