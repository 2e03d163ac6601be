"""The preflight of a sweep: every program of its cells is compiled for the slice before the first cell runs."""

import dataclasses
import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterable

from pipeline.devices.slices import Slice
from pipeline.errors import UserError, WorkFailedError
from pipeline.preflight import tpu_compiler
from pipeline.preflight.tpu_compiler import GIB
from tools.sweep.cells import Cell
from tools.sweep.ledger import MISFIT, Ledger


def require_compiler() -> None:
    """Raises UserError, with a workaround, if nothing can be compiled for a slice."""
    try:
        tpu_compiler.require_compiler()
    except UserError as error:
        raise UserError(f"{error}; or --nopreflight: a cell that does not fit then fails when it runs") from None


def record_misfits(cells: Iterable[Cell], ledger: Ledger, piece: Slice, ended: Iterable[str]) -> None:
    """Compiles each program once; cells that do not fit are recorded as such, and so are not run.

    Args:
        cells: all cells of the sweep.
        ledger: where cells that do not fit are recorded.
        piece: the slice to compile for.
        ended: keys of cells that need no preflight any more.

    Raises:
        WorkFailedError: a program could not be compiled.
    """
    ended_keys = set(ended)
    programs: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.key not in ended_keys:
            programs.setdefault(cell.program, []).append(cell)
    for number, group in enumerate(programs.values(), 1):
        fits, memory = _preflight(group[0], piece)
        print(
            f"preflight {number}/{len(programs)}  {'fits' if fits else MISFIT}  {memory}  {group[0].label}", flush=True
        )
        for cell in group:
            claim = None if fits else ledger.claim(cell.key, {"overrides": cell.overrides}, again=True)
            if claim:
                ledger.end(claim, MISFIT, reason=memory)


def _preflight(cell: Cell, piece: Slice) -> tuple[bool, str]:
    """Returns whether a cell fits, and the memory it needs and has."""
    with tempfile.TemporaryDirectory() as folder:
        answer = pathlib.Path(folder, "answer.json")
        command = [sys.executable, "-m", "tools.preflight", *cell.preflight, *_as_flags(piece), f"--json={answer}"]
        done = subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode == 2:  # the error is already printed
            sys.stderr.write(done.stderr)
            sys.exit(2)
        if not answer.exists():
            raise WorkFailedError(
                f"the preflight for {piece.name} ended with {done.returncode}: {done.stderr.strip()[-500:]}"
            )
        figures = json.loads(answer.read_text(encoding="utf-8"))
    needs, has = (figures[name] / GIB for name in ("peak_bytes_per_core", "hbm_bytes_per_core"))
    return figures["fits"], f"{needs:.2f} of {has:.2f} GiB per core"


def _as_flags(piece: Slice) -> list[str]:
    """Returns the command-line flags that make a slice, whatever gin files bind, the slice of another command."""
    return [f"--gin_param=slice.{name}={value!r}" for name, value in dataclasses.asdict(piece).items()]
