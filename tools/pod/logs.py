"""``logs``: what the units of the hosts wrote, each line with its host."""

import re
import threading
from collections.abc import Sequence

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
    """Prints the lines: those of all hosts in the order of their times, or as they come with --follow."""
    lock = threading.Lock()

    def hear(number: int, line: str) -> None:
        if STAMPED.match(line):
            with lock:
                print(f"host {number} | {line}", flush=True)

    asked = remote.logs(lines, follow=follow)
    outcomes = hosts.ssh(request, chosen(request, host), asked, hear if follow else lambda number, line: None)
    if not follow:
        print(*merged(outcomes), sep="\n")
    if lost := [outcome for outcome in outcomes if outcome.code]:
        raise run.failed(request, lost)


def merged(outcomes: Sequence[hosts.Outcome]) -> list[str]:
    """Returns the lines of all hosts by their times, which journalctl writes first."""
    stamped = [(line, o.host) for o in outcomes for line in o.lines if STAMPED.match(line)]
    return [f"host {host} | {line}" for line, host in sorted(stamped, key=lambda pair: pair[0].split()[0])]
