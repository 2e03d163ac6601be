"""``logs``: the log lines of the hosts' units, each with its host."""

import re
import threading

from pipeline.errors import UserError
from tools.pod import commands, hosts, remote, run
from tools.pod.commands import Command
from tools.pod.request import Request

STAMPED = re.compile(r"\d{4}-\d\d-\d\dT\S+ ")


def chosen(request: Request, host: str) -> list[int]:
    """Returns the hosts that --host names: an index, or all."""
    if host == "all":
        return list(request.hosts)
    if not host.isdigit() or int(host) not in request.hosts:
        raise UserError(f"--host={host}: expected all, or a host from 0 to {request.piece.hosts - 1}")
    return [int(host)]


def plan(request: Request, host: str, lines: int, *, follow: bool) -> list[Command]:
    """Returns the commands of ``logs``."""
    return [commands.ssh(request, number, remote.logs(lines, follow=follow)) for number in chosen(request, host)]


def logs(request: Request, host: str, lines: int, *, follow: bool) -> None:
    """Prints the lines of all hosts in time order, or as they arrive with --follow."""
    lock = threading.Lock()
    heard: list[tuple[int, str]] = []  # not Outcome.lines, which has only the last ones

    def hear(number: int, line: str) -> None:
        if STAMPED.match(line):
            with lock:
                if follow:
                    print(f"host {number} | {line}", flush=True)
                else:
                    heard.append((number, line))

    outcomes = hosts.ssh(request, chosen(request, host), remote.logs(lines, follow=follow), hear)
    by_time = sorted(heard, key=lambda pair: (pair[1].split()[0], pair[0]))  # journalctl writes the time first
    for number, line in by_time:
        print(f"host {number} | {line}")
    if lost := [outcome for outcome in outcomes if outcome.code]:
        raise run.failed(request, lost)
