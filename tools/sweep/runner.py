"""Runs the cells of a sweep, one at a time: each is a pipeline.train in its own process, which resumes by itself.

A run is stopped when its worker is, and a killed worker's run is terminated too, so that no run is left unwatched. The
run's output goes to a log; on a terminal its last line is shown.
"""

import ctypes
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from types import FrameType
from typing import Any

from pipeline import signals, storage
from pipeline.progress import duration
from tools.sweep.cells import Base, Cell
from tools.sweep.ledger import DONE, FAILED, MISFIT, Claim, Ledger

RESTARTS = 10  # of a cell, after a machine went away or the run was killed
RESTART_SECONDS = float(os.environ.get("RESTART_SECONDS", "30"))
POLL_SECONDS = 0.2  # of a run
WAIT_SECONDS = 5.0  # before cells that other workers run are checked again
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
STOPPED = "stopped"
ENDED = (DONE, FAILED, MISFIT)


class Runner:
    """One worker of a sweep.

    Args:
        base: the command line that all cells have in common.
        ledger: the sweep's ledger.
        directory: the sweep's directory; runs go to ``cells/``.
        again: whether cells that failed before are run again, once.
    """

    def __init__(self, base: Base, ledger: Ledger, directory: str, *, again: bool = False):
        self._base, self._ledger, self._directory, self._again = base, ledger, directory, again
        self._group = os.path.basename(directory.rstrip("/"))
        self._remote = storage.is_remote(directory)
        self._run: subprocess.Popen | None = None
        self._stop_sent = False  # to the current run
        self._tty = sys.stdout.isatty()
        self.stopped = 0  # the signal that ended it before all cells had ended

    def run(self, cells: Sequence[Cell]) -> None:
        """Runs the cells that no worker has run or is running; blocks until all have ended or a signal stops it."""
        with signals.handled(self._stop):
            if self._run_all(cells):
                self.stopped = 0

    def _run_all(self, cells: Sequence[Cell]) -> bool:
        """Runs the cells; returns whether all have ended."""
        left, ended, spent, waiting = list(cells), 0, 0.0, False
        again = {cell.key for cell in cells} if self._again else set()
        while left and not self.stopped:
            claimed_any = False
            for cell in list(left):
                if self.stopped:
                    return False
                claim = self._ledger.claim(cell.key, self._facts(cell), again=cell.key in again)
                again.discard(cell.key)
                if claim is None:
                    entry = self._ledger.read(cell.key) or {}
                    if entry.get("state") in ENDED:
                        left.remove(cell)
                    continue
                claimed_any, waiting, began = True, False, time.monotonic()
                outcome = self._run_cell(cell, claim)
                if outcome == STOPPED:
                    return False
                if claim.lost:
                    self._say(f"{outcome}  {cell.label}")
                    continue
                left.remove(cell)
                ended, spent = ended + 1, spent + time.monotonic() - began
                rest = f"  {duration(spent / ended * len(left))} left" if left else ""
                self._say(f"{len(cells) - len(left)}/{len(cells)}  {outcome}  {cell.label}{rest}")
            if left and not claimed_any:
                if not waiting:
                    self._say(f"waiting for {len(left)} cells that other workers run")
                waiting = True
                self._pause(WAIT_SECONDS)
        return not left

    def _facts(self, cell: Cell) -> dict[str, Any]:
        return {"overrides": cell.overrides}

    def _run_cell(self, cell: Cell, claim: Claim) -> str:
        """Runs a cell to its end, through restarts; returns its outcome in a few words."""
        for restart in range(RESTARTS + 1):
            if restart:
                self._pause(RESTART_SECONDS)
            if self.stopped:
                break
            code, log = self._run_process(cell, claim)
            summary = self._summary(cell)
            if summary is not None:
                self._ledger.end(claim, DONE, result=result_of(summary))
                return f"done  {result_of(summary).get('validation', float('nan')):.4f} nats per token"
            if claim.lost:
                self._ledger.release(claim)
                return "taken over by another worker"
            if self.stopped:
                break
            if code > 0 and code != os.EX_TEMPFAIL:
                reason = last_line(log) or f"pipeline.train ended with {code}"
                self._ledger.end(claim, FAILED, reason=reason, log=str(log))
                return f"failed ({reason}; see {log})"
        else:
            self._ledger.end(claim, FAILED, reason=f"ended {RESTARTS + 1} times before its end", log=str(log))
            return f"failed (ended {RESTARTS + 1} times before its end; see {log})"
        self._ledger.release(claim)
        return STOPPED

    def _run_process(self, cell: Cell, claim: Claim) -> tuple[int, pathlib.Path]:
        """Starts the run and waits until it ends; returns its exit code, negative for a signal, and its log."""
        log = self._log(cell)
        tpu = [f"--tpu={self._base.tpu}"] if self._base.tpu else []
        command = [sys.executable, "-m", "pipeline.train", *cell.arguments, *tpu]
        command += [f"--data={self._base.data}", f"--run_dir={self.directory_of(cell)}"]
        environment = {"WANDB_RUN_GROUP": self._group, "WANDB_NAME": cell.label} | os.environ
        self._stop_sent = False
        with open(log, "ab") as output:
            run = self._run = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                pass_fds=(claim.lock,),  # held by the run too: the cell is free when both are gone
                start_new_session=True,  # Ctrl-C reaches the worker alone, which passes it on
                preexec_fn=_die_with(os.getpid()),
            )
        try:
            while run.poll() is None:
                if self.stopped and not self._stop_sent:  # the signal came while the run was being started
                    self._signal_run(signal.SIGTERM)
                time.sleep(POLL_SECONDS)
                if not self._ledger.renew(claim):  # this machine slept, and another took the cell over
                    run.kill()
                if self._tty:
                    sys.stdout.write(f"\r\x1b[2K{cell.label}  {last_line(log)}"[: os.get_terminal_size().columns - 1])
                    sys.stdout.flush()
        finally:
            self._run = None
        return run.returncode, log

    def _stop(self, number: int, frame: FrameType | None) -> None:
        """Handles a signal: the first lets the run save and stop, a second Ctrl-C ends it at once."""
        self._signal_run(signal.SIGINT if self.stopped and number == signal.SIGINT else signal.SIGTERM)
        self.stopped = number

    def _signal_run(self, number: int) -> None:
        if self._run:
            self._stop_sent = True
            self._run.send_signal(number)

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self.stopped and time.monotonic() < end:
            time.sleep(min(POLL_SECONDS, seconds))

    def _say(self, text: str) -> None:
        print(f"\r\x1b[2K{text}" if self._tty else text, flush=True)

    def directory_of(self, cell: Cell) -> str:
        """Returns the run directory of a cell."""
        return storage.join(storage.join(self._directory, "cells"), cell.key)

    def _log(self, cell: Cell) -> pathlib.Path:
        """Returns a local file, beside the run if that is local too."""
        if self._remote:
            folder = pathlib.Path(tempfile.gettempdir(), f"sweep-{os.getuid()}-{self._group}")
        else:
            folder = pathlib.Path(self._directory, "cells")
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{cell.key}.log"

    def _summary(self, cell: Cell) -> dict[str, Any] | None:
        try:
            return json.loads(storage.read_bytes(storage.join(self.directory_of(cell), "summary.json")))
        except FileNotFoundError:
            return None


def result_of(summary: dict[str, Any]) -> dict[str, Any]:
    """Returns the figures of a run's summary.json that a table of runs shows."""
    validation = summary.get("validation") or {}
    figures = {
        "validation": validation.get("nats_per_token"),
        "perplexity": validation.get("perplexity"),
        "train_loss": summary["train"]["nats_per_token"],
        "steps": summary["steps"],
        "tokens": summary["tokens_seen"],
        "parameters": summary["parameters"],
        "tokens_per_second": summary["train"].get("tokens_per_second"),
        "seconds": round(sum(summary.get("seconds", {}).values()), 1),
    }
    return {name: value for name, value in figures.items() if value is not None}


def last_line(log: pathlib.Path) -> str:
    """Returns the last line of a log that is not blank, without the prefix of an error."""
    with open(log, "rb") as file:
        file.seek(max(0, os.path.getsize(log) - 4096))
        lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("error: ").removeprefix("failed: ") if lines else ""


def _die_with(parent: int) -> Any:
    """Returns a function for a child to call first, so that it gets SIGTERM when its parent dies, for any reason."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def set_signal() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # the parent died before prctl
            os.kill(os.getpid(), signal.SIGTERM)

    return set_signal
