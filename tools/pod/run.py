"""``run``: starts the training on host 0, with a TensorFlow server on each host if there are several."""

import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.errors import UserError, WorkFailedError
from tools.pod import commands, failures, hosts, remote, status
from tools.pod.commands import Command
from tools.pod.hosts import Outcome
from tools.pod.request import Request

GRACE_SECONDS = 60  # for a run to save before `restart` kills it


def plan(request: Request, arguments: Sequence[str]) -> list[Command]:
    """Returns the commands of ``run``, with names in place of unknown addresses."""
    addresses = [f"HOST{host}:{status.SERVER_PORT}" for host in request.hosts]
    return [
        commands.describe_tpu(request),
        commands.ssh(request, 0, remote.state()),
        *_servers(request, addresses),
        commands.ssh(request, 0, _train(request, addresses, arguments)),
    ]


def check(request: Request, arguments: Sequence[str]) -> None:
    """Raises UserError, before anything starts, if ``pipeline.train`` would reject its arguments."""
    wrong = next((word for word in arguments if re.match(r"--?tpu\b", word)), None)
    if wrong:
        raise UserError(f"{wrong} after --: the slice is that of --tpu before it")
    given = dict(re.findall(r"^--?(data|run_dir)=(.*)$", "\n".join(arguments), re.MULTILINE))
    for flag in ("data", "run_dir"):
        path = given.get(flag, "")
        if not path or (request.piece.hosts > 1 and not path.startswith("gs://")):
            raise UserError(f"--{flag}={path} after --: expected a gs:// address, which every host sees")
    command = [sys.executable, "-m", "pipeline.train", *arguments, f"--tpu={request.piece.name}", "--dry_run"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"pipeline.train ended with {done.returncode}"]
        raise UserError(lines[-1].removeprefix("error: "))


def run(request: Request, arguments: Sequence[str]) -> None:
    """Starts the run.

    Raises:
        UserError: A run is active, or the slice is not there or not set up.
        WorkFailedError: A host does not start.
    """
    addresses = status.addresses(request)
    if state(request)["run"]:
        raise UserError("a run is active on this slice; expected to `stop` it first, or to watch it: logs --follow")
    start(request, addresses, arguments)
    print(f"started on host 0 of {request.name}; it goes on without this machine. Watch it with logs --follow")


def state(request: Request) -> dict[str, Any]:
    """Returns host 0's state; UserError if it is not set up."""
    outcome = hosts.one(request, 0, remote.state())
    if outcome.code:
        raise failures.explain(outcome.text, request)
    answer = remote.told(outcome.lines)
    if not answer.get("stamp"):
        raise UserError(f"{request.name} is not set up; expected setup first")
    return answer


def start(request: Request, addresses: Sequence[str], arguments: Sequence[str]) -> None:
    """Starts the servers, then the run."""
    serve(request, addresses)
    _on_host_0(request, _train(request, addresses, arguments))


def serve(request: Request, addresses: Sequence[str], *, fresh: bool = False) -> None:
    """Starts a TensorFlow server on each of several hosts, and waits until all respond."""
    if request.piece.hosts > 1:
        words = _server(request, addresses, fresh=fresh)
        outcomes = hosts.each(request.hosts, lambda host: hosts.one(request, host, words(host)))
        if lost := [outcome for outcome in outcomes if outcome.code]:
            raise failed(request, lost)


def restart(request: Request) -> None:
    """Ends the run, by force if it hangs, restarts every host's server, then the same run."""
    addresses = status.addresses(request)
    state(request)
    for command in ("stop", f"--grace={GRACE_SECONDS}"), ("start",):
        if command[0] == "start":
            serve(request, addresses, fresh=True)
        _on_host_0(request, remote.on_host(*command))
    print(f"{request.name}: the run goes on from its newest checkpoint; watch it with logs --follow")


def restart_plan(request: Request) -> list[Command]:
    """Returns the commands of ``restart``."""
    addresses = [f"HOST{host}:{status.SERVER_PORT}" for host in request.hosts]
    return [
        commands.describe_tpu(request),
        commands.ssh(request, 0, remote.state()),
        commands.ssh(request, 0, remote.on_host("stop", f"--grace={GRACE_SECONDS}")),
        *_servers(request, addresses, fresh=True),
        commands.ssh(request, 0, remote.on_host("start")),
    ]


def stop(request: Request) -> None:
    """Stops the run, which saves; the slice stays."""
    _on_host_0(request, remote.on_host("stop"))
    print(f"{request.name}: the run was stopped and has saved; the same `run` goes on")


def stop_plan(request: Request) -> list[Command]:
    """Returns the commands of ``stop``."""
    return [commands.ssh(request, 0, remote.on_host("stop"))]


def _on_host_0(request: Request, command: str) -> None:
    outcome = hosts.one(request, 0, command)
    if outcome.code:
        raise failed(request, [outcome])


def failed(request: Request, lost: Sequence[Outcome]) -> Exception:
    """Returns the error for failed hosts: the program's own sentence, or the meaning of gcloud's message."""
    host, lines = lost[0].host, [line for line in lost[0].lines if line.strip()]
    own = next((line for line in reversed(lines) if line.startswith(("error: ", "failed: "))), None)
    if own:
        kind = UserError if own.startswith("error: ") else WorkFailedError
        return kind(f"host {host}: {own.partition(': ')[2]}")
    known = failures.explain(lost[0].text, request)
    names = ", ".join(str(outcome.host) for outcome in lost)
    return type(known)(f"host{'s' if len(lost) > 1 else ''} {names}: {known}")


def _servers(request: Request, addresses: Sequence[str], *, fresh: bool = False) -> list[Command]:
    words = _server(request, addresses, fresh=fresh)
    return [commands.ssh(request, host, words(host)) for host in request.hosts if request.piece.hosts > 1]


def _server(request: Request, addresses: Sequence[str], *, fresh: bool) -> Callable[[int], str]:
    how = [f"--tpu={request.piece.name}", f"--hosts={','.join(addresses)}", *(["--fresh"] if fresh else [])]
    return lambda host: remote.on_host("worker", f"--index={host}", *how)


def _train(request: Request, addresses: Sequence[str], arguments: Sequence[str]) -> str:
    at = f"grpc://{','.join(addresses)}" if request.piece.hosts > 1 else "local"
    return remote.on_host("train", f"--tpu={request.piece.name}@{at}", "--", *arguments)
