"""Runs the cells of a sweep, some at a time: each trains in its own process, which resumes by itself.

A worker that stops also stops its run, and a killed worker's run is terminated, so no run is left unwatched. The run's
output goes to a log; a terminal shows its last line.
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
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from pipeline import stop_signals, storage
from pipeline.progress import OF_STEPS, Progress, duration
from tools.sweep.ledger import DONE, ENDED, FAILED, Claim, Ledger

RESTARTS = 10  # of a cell, after a lost machine or a killed run
RESTART_SECONDS = float(os.environ.get("RESTART_SECONDS", "30"))
POLL_SECONDS = 0.2  # of the runs
WAIT_SECONDS = 5.0  # between checks of cells that other workers run
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
STOPPED, TAKEN_OVER = "stopped", "taken over by another worker"


@dataclass(frozen=True, kw_only=True)
class Job:
    """The run of a cell."""

    key: str  # the cell's name in the ledger and for its run directory
    label: str  # its name for people
    overrides: dict[str, Any]  # the settings that distinguish it, for the ledger
    arguments: tuple[str, ...]  # its own part of the command line


@dataclass
class _Run:
    """A job that this worker has claimed; its process is None until the run starts or restarts."""

    job: Job
    claim: Claim
    log: pathlib.Path
    process: subprocess.Popen | None = None
    starts: int = 0
    start_at: float = 0.0
    told: bool = False  # to stop
    began: float = field(default_factory=time.monotonic)


@dataclass
class Runner:
    """One worker of a sweep."""

    command: Sequence[str]  # Python arguments that all jobs share: ``-m``, a module and its flags
    ledger: Ledger
    directory: str  # of the sweep; runs go to ``cells/``
    again: Collection[str] = ()  # final states whose jobs are rerun, once, such as FAILED
    parallel: int = 1  # jobs to run at a time
    environment: Mapping[str, str] = field(default_factory=dict)  # environment variables for the runs

    def __post_init__(self) -> None:
        self._group = os.path.basename(self.directory.rstrip("/"))
        self._runs: list[_Run] = []
        self._progress = Progress(1.0)
        self._shown = ""
        self._done_by_others = 0  # jobs, before this worker reached them
        self.stopped = 0  # the signal that stopped it before all jobs had ended

    def run(self, jobs: Sequence[Job]) -> None:
        """Runs the jobs that no worker has run or is running; blocks until all have ended or a signal stops it."""
        with stop_signals.handled(self._stop):
            if self._run_all(jobs):
                self.stopped = 0

    def _run_all(self, jobs: Sequence[Job]) -> bool:
        """Runs the jobs; returns whether all have ended."""
        left, untried, ended, spent = list(jobs), {job.key for job in jobs}, 0, 0.0
        look_at, waiting = 0.0, False
        while left or self._runs:
            if self.stopped and not self._runs:
                return False
            if not self.stopped and len(self._runs) < self.parallel and time.monotonic() >= look_at:
                if self._claim_one(left, untried):
                    continue
                look_at = time.monotonic() + WAIT_SECONDS
                if left and not self._runs and not waiting:
                    self._say(f"waiting for {len(left)} cells that other workers run")
                    waiting = True
            for run in list(self._runs):
                outcome = self._outcome(run)
                if outcome is None:
                    continue
                self._runs.remove(run)
                look_at = 0.0
                if outcome in (STOPPED, TAKEN_OVER):
                    left.append(run.job)
                    self._say(f"{outcome}  {run.job.label}")
                    continue
                ended, spent, rest = ended + 1, spent + time.monotonic() - run.began, len(left) + len(self._runs)
                remaining = f"  {duration(spent / ended * rest / self.parallel)} left" if rest else ""
                self._say(f"{len(jobs) - rest}/{len(jobs)}  {outcome}  {run.job.label}{remaining}")
            self._show()
            time.sleep(POLL_SECONDS)
        if jobs and not ended:
            self._say(f"{self._done_by_others}/{len(jobs)}  done  by other workers, or before")
        return True

    def _claim_one(self, left: list[Job], untried: set[str]) -> bool:
        """Claims a job that no other worker has; removes it, and jobs that have ended, from ``left``."""
        for job in list(left):
            again = self.again if job.key in untried else ()
            claim = self.ledger.claim(job.key, {"overrides": job.overrides}, again=again)
            untried.discard(job.key)
            if claim:
                left.remove(job)
                self._runs.append(_Run(job, claim, self._log(job)))
                return True
            state = (self.ledger.read(job.key) or {}).get("state")
            if state in ENDED:
                left.remove(job)
                self._done_by_others += state == DONE
        return False

    def _outcome(self, run: _Run) -> str | None:
        """Starts or watches a run; returns its outcome in a few words once it has one."""
        if run.process is None and not self.stopped:
            if time.monotonic() >= run.start_at:
                self._start(run)
            return None
        if run.process is not None and run.process.poll() is None:
            if self.stopped and not run.told:  # the signal came while the run was starting
                self._tell(run, signal.SIGTERM)
            if not self.ledger.renew(run.claim):  # this machine slept, and another took over the cell
                run.process.kill()
            return None
        summary = self._summary(run.job)
        if summary is not None:
            result = result_of(summary)
            self.ledger.end(run.claim, DONE, result=result)
            part = "validation" if "validation" in result else "train_loss"
            return f"done  {part.removesuffix('_loss')} {result[part]:.4f} nats per token"
        if run.claim.lost or self.stopped:
            self.ledger.release(run.claim)
            return TAKEN_OVER if run.claim.lost else STOPPED
        code = run.process.returncode if run.process else 0
        if code > 0 and code != os.EX_TEMPFAIL:
            reason = last_line(run.log) or f"the run ended with {code}"
        elif run.starts > RESTARTS:
            reason = f"ended {run.starts} times before its end"
        else:
            run.process, run.start_at = None, time.monotonic() + RESTART_SECONDS
            return None
        self.ledger.end(run.claim, FAILED, reason=reason, log=str(run.log))
        return f"failed ({reason}; see {run.log})"

    def _start(self, run: _Run) -> None:
        command = [sys.executable, *self.command, *run.job.arguments, f"--run_dir={self._home(run.job)}"]
        names = {"WANDB_RUN_GROUP": self._group, "WANDB_NAME": run.job.label}
        run.starts, run.told = run.starts + 1, False
        with open(run.log, "ab") as output:
            run.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**names, **os.environ, **self.environment},
                pass_fds=(run.claim.lock,),  # the run holds it too: the cell is free when both are gone
                start_new_session=True,  # Ctrl-C reaches only the worker, which passes it on
                preexec_fn=_die_with(os.getpid()),
            )

    def _stop(self, number: int, frame: FrameType | None) -> None:
        """Handles a signal: the first lets the runs save and stop, a second Ctrl-C ends them at once."""
        for run in self._runs:
            self._tell(run, signal.SIGINT if self.stopped and number == signal.SIGINT else signal.SIGTERM)
        self.stopped = number

    def _tell(self, run: _Run, number: int) -> None:
        if run.process:
            run.told = True
            run.process.send_signal(number)

    def _show(self) -> None:
        """Shows a run's progress on a terminal."""
        if self._progress.on_terminal and self._runs and self._runs[0].process:
            steps = last_line(self._runs[0].log, "step ") or "starting"
            if steps != self._shown:
                self._progress.show(self._runs[0].job.label, *steps.split("  "), spare=(*OF_STEPS, "="))
            self._shown = steps

    def _say(self, text: str) -> None:
        self._progress.note(text)

    def _home(self, job: Job) -> str:
        return storage.join(storage.join(self.directory, "cells"), job.key)

    def _log(self, job: Job) -> pathlib.Path:
        """Returns a local file, beside the run if that is local."""
        folder = pathlib.Path(self.directory, "cells")
        if storage.is_remote(self.directory):
            folder = pathlib.Path(tempfile.gettempdir(), f"sweep-{os.getuid()}-{self._group}")
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{job.key}.log"

    def _summary(self, job: Job) -> dict[str, Any] | None:
        try:
            return json.loads(storage.read_bytes(storage.join(self._home(job), "summary.json")))
        except FileNotFoundError:
            return None


def result_of(summary: dict[str, Any]) -> dict[str, Any]:
    """Returns the figures of a run's summary.json for a table of runs."""
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


def last_line(log: pathlib.Path, begins: str = "") -> str:
    """Returns a log's last nonblank line that begins so, without the error prefix."""
    with open(log, "rb") as file:
        file.seek(max(0, os.path.getsize(log) - 4096))
        lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines()]
    lines = [line for line in lines if line and line.startswith(begins)]
    return lines[-1].removeprefix("error: ").removeprefix("failed: ") if lines else ""


def _die_with(parent: int) -> Any:
    """Returns a function that a child calls first, so that it gets SIGTERM when its parent dies for any reason."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def set_signal() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # the parent died before prctl
            os.kill(os.getpid(), signal.SIGTERM)

    return set_signal
