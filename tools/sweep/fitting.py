"""The preflight of a sweep: compiles every program of its cells for the slice before the first cell runs."""

from collections.abc import Collection, Iterable

from pipeline.devices.slices import Slice
from pipeline.errors import UserError
from pipeline.preflight import compile_step, tpu_compiler
from pipeline.preflight.figures import gib
from tools.sweep.cells import Cell
from tools.sweep.ledger import FAILED, MISFIT, Ledger


def require_compiler() -> None:
    """Raises UserError, with a workaround, if nothing can be compiled for a slice."""
    try:
        tpu_compiler.require_compiler()
    except UserError as error:
        raise UserError(f"{error}; or --nopreflight: a cell that does not fit then fails when it runs") from None


def record_misfits(cells: Iterable[Cell], ledger: Ledger, piece: Slice, ended: Collection[str]) -> None:
    """Compiles each program once, and records cells that do not fit, so they do not run.

    Cells with keys in ``ended`` need no preflight.

    Raises:
        WorkFailedError: a program could not be compiled.
    """
    programs: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.key not in ended:
            programs.setdefault(cell.program, []).append(cell)
    for number, group in enumerate(programs.values(), 1):
        fits, memory = _preflight(group[0], piece)
        print(
            f"preflight {number}/{len(programs)}  {'fits' if fits else MISFIT}  {memory}  {group[0].label}", flush=True
        )
        for cell in group:
            claim = None if fits else ledger.claim(cell.key, {"overrides": cell.overrides}, again=(FAILED,))
            if claim:
                ledger.end(claim, MISFIT, reason=memory)


def _preflight(cell: Cell, piece: Slice) -> tuple[bool, str]:
    """Returns whether a cell fits, and the memory that its training step needs and has."""
    settings, model = cell.run.settings, compile_step.with_vocabulary(cell.run.model)
    training = compile_step.check(settings, model, cell.run.optimizer, piece)
    fits = training.fits and compile_step.check_evaluation(settings, model, piece, training).fits
    return fits, f"{gib(training.peak_bytes_per_core)} of {gib(training.hbm_bytes_per_core)} GiB per core"
