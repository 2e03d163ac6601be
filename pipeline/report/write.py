"""Writes ``report.html`` into a finished run's directory, and updates it when there is more to report."""

import sys

from pipeline.report import charts, page
from pipeline.report.read import read
from pipeline.runs.run_directory import RunDirectory

REPORT = "report.html"


def write_report(directory: RunDirectory) -> bool:
    """Writes the page; returns whether it could. The run is done, so a failure here is only a note."""
    try:
        run = read(directory.path)
        directory.write(REPORT, page.page([run], charts.figures([run])))
    except Exception as error:
        print(f"note: {directory.join(REPORT)} is not written: {type(error).__name__}: {error}", file=sys.stderr)
        return False
    return True
