"""``status``: one table of a slice's state, its hosts, what is installed there and what runs."""

from typing import Any

from pipeline.errors import UserError, WorkFailedError
from tools.pod import commands, create, gcloud, hosts, remote
from tools.pod.commands import Command
from tools.pod.request import Request

COLUMNS = ("host", "set up", "server", "run", "newest line")
LINE_WIDTH = 80
# On images without TensorFlow, a Google stand-in (tpu-runtime.service) uses the port that the API names.
API_PORT, SERVER_PORT = 8470, 8490


def plan(request: Request) -> list[Command]:
    """Returns the commands of ``status``."""
    asks = (commands.ssh(request, host, remote.state()) for host in request.hosts)
    return [commands.describe_request(request), commands.describe_tpu(request), *asks]


def status(request: Request) -> None:
    """Prints the table."""
    asked = gcloud.answer(commands.describe_request(request), request)
    if asked is None:
        raise UserError(f"{request.zone} has no request called {request.name!r} in this project; create makes it")
    state, reason = create.state_of(asked)
    print(
        f"{request.name}  {request.piece.name} in {request.zone}: {state}{f' ({reason})' if reason else ''}", flush=True
    )
    tpu = gcloud.answer(commands.describe_tpu(request), request) if state == "ACTIVE" else None
    if tpu is None:
        return
    print(
        f"TPU {tpu.get('state', 'UNKNOWN')}, {tpu.get('health', 'health unknown')}, {len(endpoints(tpu))} hosts",
        flush=True,
    )
    if tpu.get("state") == "READY":
        outcomes = hosts.ssh(request, request.hosts, remote.state())
        print(table([row(o.host, remote.told(o.lines)) if not o.code else unreachable(o) for o in outcomes]))


def endpoints(tpu: dict[str, Any]) -> list[str]:
    """Returns the ``HOST:PORT`` of each host's server in a TPU's description, in host order."""
    found = tpu.get("networkEndpoints", [])
    return [f"{point['ipAddress']}:{point.get('port', API_PORT) + SERVER_PORT - API_PORT}" for point in found]


def addresses(request: Request) -> list[str]:
    """Returns the ``HOST:PORT`` of each host; an error if the TPU is not ready or not this slice."""
    tpu = gcloud.answer(commands.describe_tpu(request), request)
    if tpu is None:
        raise UserError(f"{request.zone} has no TPU called {request.name!r} in this project; create makes it")
    if tpu.get("state") != "READY":
        raise WorkFailedError(f"the TPU {request.name} is {tpu.get('state')}; expected READY (status says more)")
    found = endpoints(tpu)
    if len(found) != request.piece.hosts:
        size = f"{tpu.get('acceleratorType', 'TPU')} with {len(found)} hosts"
        raise UserError(f"{request.name} is a {size}; --tpu={request.piece.name} has {request.piece.hosts}")
    return found


def row(host: int, answer: dict[str, Any]) -> tuple[str, ...]:
    """Returns the row of a host that responded."""
    stamp, ended = answer.get("stamp", ""), answer.get("exit_status", "")
    run = f"ended with {ended}" if ended else "-"
    if answer.get("run"):
        restarts = answer.get("restarts", "0")
        run = "active" if restarts == "0" else f"active, restarted {restarts} times"
    line = answer.get("line", "")[:LINE_WIDTH]
    return (str(host), stamp[:8] or "no", "active" if answer.get("server") else "-", run, line)


def unreachable(outcome: hosts.Outcome) -> tuple[str, ...]:
    """Returns the row of a host that did not respond."""
    last = next((line for line in reversed(outcome.lines) if line.strip()), "")
    return (str(outcome.host), "?", "?", "?", f"does not answer: {last}"[:LINE_WIDTH])


def table(rows: list[tuple[str, ...]]) -> str:
    """Returns rows of text under their headers, each column as wide as needed."""
    lines = [COLUMNS, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
