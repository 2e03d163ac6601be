"""``setup``: installs this checkout and its packages on every host, in parallel, unless they are there."""

import pathlib
import subprocess
import sys
import tempfile
import threading
import time

from pipeline import storage
from pipeline.errors import UserError, WorkFailedError
from pipeline.progress import Progress, duration
from tools.pod import commands, failures, gcloud, hosts, remote
from tools.pod.commands import Command
from tools.pod.hosts import Outcome
from tools.pod.request import Request

ROOT = pathlib.Path(__file__).resolve().parents[2]
LINES_SHOWN = 5  # of a failed host
CLOCK_SECONDS = 10.0  # more than a round trip explains


def plan(request: Request, bucket: str | None, file: str = "/tmp/source.tar.gz") -> list[Command]:
    """Returns the commands of ``setup``, as if nothing were installed anywhere."""
    stamp = _git("rev-parse", "HEAD^{tree}")
    return [
        _archive(file),
        commands.ssh(request, 0, "true"),
        *(commands.ssh(request, host, remote.prepare()) for host in request.hosts),
        *(
            command
            for host in request.hosts
            for command in (
                commands.upload(request, host, file, remote.ARCHIVE),
                commands.ssh(request, host, remote.install(stamp)),
            )
        ),
        *(commands.ssh(request, host, _check(bucket)) for host in request.hosts),
    ]


def setup(request: Request, bucket: str | None) -> None:
    """Sets up and checks every host.

    Raises:
        WorkFailedError: Hosts failed; the others are done. The same command does the rest.
        UserError: This is not a git checkout, the bucket's name is invalid, or gcloud is not set up.
    """
    if bucket and not storage.is_remote(bucket):
        raise UserError(f"--bucket={bucket}: expected gs://BUCKET or gs://BUCKET/FOLDER")
    stamp = _git("rev-parse", "HEAD^{tree}")
    if changed := _git("status", "--porcelain"):
        print(
            f"warning: {len(changed.splitlines())} files differ from HEAD; HEAD is what the hosts get", file=sys.stderr
        )
    if (greeting := hosts.greet(request)).code:
        raise failures.explain(greeting.text, request)
    reached = hosts.ssh(request, request.hosts, remote.prepare())
    lost = [outcome for outcome in reached if outcome.code]
    missing = [o.host for o in reached if not o.code and remote.told(o.lines).get("stamp") != stamp]
    if missing:
        lost += _install(request, missing, stamp)
    ready = [host for host in request.hosts if host not in {outcome.host for outcome in lost}]
    lost += _checked(request, ready, bucket)
    if lost:
        raise _report(request, lost)
    print(f"{request.name}: {len(request.hosts)} of {len(request.hosts)} hosts are set up", flush=True)


class _Bar:
    """The hosts' progress: a line for each finished host, and on a terminal what one of them is doing."""

    def __init__(self, total: int):
        self._progress, self._began = Progress(total), time.monotonic()
        self._total, self._done, self._lock = total, 0, threading.Lock()

    def hear(self, host: int, line: str) -> None:
        """Shows a host's line."""
        with self._lock:
            if self._progress.on_terminal:
                self._progress.show(f"setup: {self._done} of {self._total} hosts; host {host}: {line.strip()}")

    def end(self, outcome: Outcome) -> None:
        """Records that a host has finished."""
        with self._lock:
            self._done += 1
            how = f"failed (exit code {outcome.code}) after" if outcome.code else "installed in"
            self._progress.note(f"host {outcome.host}: {how} {duration(time.monotonic() - self._began)}")


def _install(request: Request, missing: list[int], stamp: str) -> list[Outcome]:
    """Installs on the hosts that lack it; returns the outcomes that failed."""
    bar = _Bar(len(missing))
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/source.tar.gz"
        subprocess.run(_archive(file), check=True)

        def work(host: int) -> Outcome:
            outcome = Outcome(host, *gcloud.lines(commands.upload(request, host, file, remote.ARCHIVE)))
            if not outcome.code:
                outcome = hosts.one(request, host, remote.install(stamp), bar.hear)
            bar.end(outcome)
            return outcome

        return [outcome for outcome in hosts.each(missing, work) if outcome.code]


def _checked(request: Request, ready: list[int], bucket: str | None) -> list[Outcome]:
    """Checks the hosts, and prints what is wrong; returns the outcomes that failed."""
    offsets: dict[int, float] = {}

    def hear(host: int, line: str) -> None:
        if "clock" in (answer := remote.told([line])):
            offsets[host] = answer["clock"] - time.time()

    outcomes = hosts.ssh(request, ready, _check(bucket), hear)
    for host, offset in offsets.items():
        if abs(offset) > CLOCK_SECONDS:
            print(f"warning: the clock of host {host} is {offset:+.0f} s off this machine's", file=sys.stderr)
    found = [remote.told(outcome.lines).get("versions") for outcome in outcomes if not outcome.code]
    if found and found[0]:
        print(f"each has {', '.join(f'{name} {version}' for name, version in found[0].items())}", flush=True)
    return [outcome for outcome in outcomes if outcome.code]


def _report(request: Request, lost: list[Outcome]) -> WorkFailedError:
    lost = sorted(lost, key=lambda outcome: outcome.host)
    why = ""
    for outcome in lost:
        for line in outcome.lines[-LINES_SHOWN:]:
            print(f"host {outcome.host} | {line}", file=sys.stderr)
        known = str(failures.explain(outcome.text, request))
        if not why and not known.startswith(failures.UNKNOWN):
            why = f" (host {outcome.host}: {known})"
    names = ", ".join(str(outcome.host) for outcome in lost)
    kept = len(request.hosts) - len(lost)
    what = f"host{'s' if len(lost) > 1 else ''} {names} of {len(request.hosts)}"
    return WorkFailedError(f"{what} failed{why}; the other {kept} are kept, and the same command does the rest")


def _check(bucket: str | None) -> str:
    return remote.on_host("check", *([f"--bucket={bucket}"] if bucket else []))


def _archive(file: str) -> Command:
    return ["git", "-C", str(ROOT), "archive", "--format=tar.gz", f"--output={file}", "HEAD"]


def _git(*words: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        raise UserError(f"{ROOT} is not a checkout of git; expected one, whose HEAD the hosts get") from None
    return done.stdout.strip()
