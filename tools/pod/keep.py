"""``run --keep``: watches a run from here, and recreates a preempted slice with its run."""

import sys
import time
from collections.abc import Sequence

from pipeline.errors import UserError, WorkFailedError
from pipeline.progress import OF_STEPS, Progress
from tools.pod import commands, create, gcloud, run, setup, status
from tools.pod.request import Request

SILENT = 3  # failed polls before a message
TRIES = 3  # of setup, on a new slice


def keep(request: Request, arguments: Sequence[str], bucket: str | None, poll_seconds: float) -> int:
    """Starts the run, or finds it running, and watches it until it ends; returns its exit code.

    Raises:
        UserError: Another run is active.
        WorkFailedError: The slice cannot be recreated.
    """
    watch = _Watch(request, arguments, bucket, poll_seconds)
    try:
        while (code := watch.look()) is None:
            time.sleep(poll_seconds)
    except KeyboardInterrupt:
        print("\nthe run goes on without this command; the same command watches it again", file=sys.stderr)
        raise
    finally:
        watch.progress.finish()
    print(f"the run ended with {code}", flush=True)
    return code


class _Watch:
    """The state of the watched run."""

    def __init__(self, request: Request, arguments: Sequence[str], bucket: str | None, poll_seconds: float):
        self.request, self.arguments, self.bucket, self.poll_seconds = request, list(arguments), bucket, poll_seconds
        self.progress, self.silent, self.started, self.line = Progress(1.0), 0, False, ""

    def look(self) -> int | None:
        """Polls once, and does what is needed; returns the run's exit code when it has one."""
        try:
            why = self._gone()
        except WorkFailedError as error:  # the network here is down for a while, or there is no capacity yet
            self._unheard(error)
            return None
        if why:
            self._bring_back(why)
        try:
            state = run.state(self.request)
        except WorkFailedError as error:
            self._unheard(error)
            return None
        self.silent = 0
        if state["run"]:
            if state["command"] != self.arguments:
                raise UserError(f"another run is active on this slice: {' '.join(state['command'])}; `stop` it first")
            if state["line"] != self.line:
                self.line = state["line"]
                self.progress.show(*self.line.split("  "), spare=OF_STEPS)
        elif self.started and state["exit_status"]:
            return int(state["exit_status"]) if state["exit_status"].isdigit() else 1
        else:
            if self.started:
                self.progress.note("host 0 went down and came back; the run is started again")
            run.start(self.request, status.addresses(self.request), self.arguments)
            self.progress.note(f"started on host 0 of {self.request.name}")
        self.started = True
        return None

    def _unheard(self, error: Exception) -> None:
        self.silent += 1
        if self.silent == SILENT:
            self.progress.note(f"{self.request.name} does not answer ({error}); if a host hangs: restart")

    def _gone(self) -> str:
        """Returns why the slice no longer works, or an empty string."""
        asked = gcloud.answer(commands.describe_request(self.request), self.request)
        if asked is None:
            return "is gone"
        state, _ = create.state_of(asked)
        if state in create.ENDED:
            return f"is {state}"
        if state != "ACTIVE":
            create.wait(self.request, self.poll_seconds)
        tpu = gcloud.answer(commands.describe_tpu(self.request), self.request)
        return f"is {tpu['state']}" if tpu and tpu.get("state") in create.LOST else ""

    def _bring_back(self, why: str) -> None:
        self.progress.note(f"{self.request.name} {why}: asking for it again")
        if why != "is gone":
            create.delete(self.request, yes=True)
        create.create(self.request, self.poll_seconds)
        for tries in range(1, TRIES + 1):
            try:
                setup.setup(self.request, self.bucket)
                break
            except WorkFailedError as error:
                if tries == TRIES:
                    raise
                self.progress.note(f"setup: {error}; once more")
        self.started = False
