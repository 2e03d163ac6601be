"""``create``: requests a slice and waits until it is active; ``delete`` deletes it."""

import sys
import time

from pipeline.errors import UserError, WorkFailedError
from pipeline.progress import Progress, duration
from tools.pod import commands, failures, gcloud
from tools.pod.commands import Command
from tools.pod.request import Request

WAITING = ("CREATING", "ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING")
ENDED = ("FAILED", "SUSPENDING", "SUSPENDED", "DELETING")
LOST = ("PREEMPTED", "TERMINATED", "STOPPED", "DELETING")  # states of a TPU that does not recover by itself


def plan(request: Request) -> list[Command]:
    """Returns the commands of ``create``."""
    return [commands.create(request), commands.describe_request(request)]


def state_of(answer: dict) -> tuple[str, str]:
    """Returns the state in a queued resource's description, and its reason, if any."""
    state = answer.get("state", {})
    reason = state.get("failedData", {}).get("error", {}).get("message", "")
    initiator = state.get("stateInitiator", "")
    return state.get("state", "UNKNOWN"), " ".join(reason.split()) or ("" if initiator == "USER" else initiator)


def create(request: Request, poll_seconds: float) -> None:
    """Requests the slice, unless it is already requested, and waits until it is ACTIVE.

    Raises:
        WorkFailedError: The request ended in another state.
        UserError: gcloud, the account or the project is not set up correctly.
    """
    code, output = gcloud.lines(commands.create(request))
    text = "\n".join(output)
    if code and not failures.EXISTS.search(text):
        raise failures.explain(text, request)
    print(f"{request.name} was asked for before; waiting for it" if code else f"asked for {request.name}", flush=True)
    try:
        wait(request, poll_seconds)
    except KeyboardInterrupt:
        print(
            f"\nthe request {request.name} stays in the queue: the same command waits for it again, "
            f"`delete` takes it back",
            file=sys.stderr,
        )
        raise


def wait(request: Request, poll_seconds: float) -> None:
    """Waits, with one progress line, until the slice is ACTIVE; WorkFailedError if it will not be."""
    progress, began, shown = Progress(1.0), time.monotonic(), ""
    while True:
        answer = gcloud.answer(commands.describe_request(request), request)
        if answer is None:
            raise WorkFailedError(f"the request {request.name} is gone; somebody has deleted it")
        state, reason = state_of(answer)
        if state == "ACTIVE":
            progress.note(f"{request.name} is ACTIVE after {duration(time.monotonic() - began)}")
            return
        if state in ENDED:
            progress.finish()
            raise _ended(request, state, reason)
        if progress.on_terminal or state != shown:  # elsewhere one line per state is enough
            progress.show(f"{request.name}: {state}, {duration(time.monotonic() - began)}")
        shown = state
        time.sleep(poll_seconds)


def _ended(request: Request, state: str, reason: str) -> Exception:
    known = failures.explain(reason, request) if reason else None
    why = f": {reason}" if known is None or str(known).startswith(failures.UNKNOWN) else f": {known}"
    return WorkFailedError(f"the request {request.name} is {state}{why if reason else ''}; `delete` it, then ask again")


def delete(request: Request, *, yes: bool) -> None:
    """Asks on the terminal, then deletes the queued resource and its TPU, but no bucket."""
    if not yes:
        if not sys.stdin.isatty():
            raise UserError("delete asks on a terminal, and this is none; expected --yes")
        answer = input(f"delete {request.name} in {request.zone}, with what is on its disks? [y/N] ")
        if answer.strip().lower() not in ("y", "yes"):
            raise UserError(f"{request.name} was not deleted")
    code, output = gcloud.lines(commands.delete(request))
    if code:
        raise failures.explain("\n".join(output), request)
    print(f"deleted {request.name}; buckets are as they were")
