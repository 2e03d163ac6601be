"""Writes ``report.html`` into the directory of a run that has ended, and again when there is more to tell of it."""

import sys

from pipeline.report import charts, page
from pipeline.report.read import read
from pipeline.runs.run_directory import RunDirectory

REPORT = "report.html"


def write_report(directory: RunDirectory) -> bool:
    """Writes the page, and returns if it could: the run is done, so what prevents it is a note and not its failure."""
    try:
        run = read(directory.path)
        directory.write(REPORT, page.page([run], charts.figures([run])))
    except Exception as error:
        print(f"note: {directory.join(REPORT)} is not written: {type(error).__name__}: {error}", file=sys.stderr)
        return False
    return True
