"""Weights & Biases: one run id across all restarts, and a run never waits for the network."""

import contextlib
import netrc
import os
import re
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError, nearest
from pipeline.runs.sinks import Sink

if TYPE_CHECKING:
    from pipeline.runs.run_directory import RunDirectory

ANSWER_SECONDS = 3.0  # to reach the server; otherwise the run is offline
UPLOAD_SECONDS = 60.0  # at most, to finish the upload when a run ends; `wandb sync` uploads the rest
TIME = {"time": "_timestamp"}

MODES = ("online", "offline", "shared", "disabled", "dryrun", "run")  # wandb's values of WANDB_MODE


def check_environment() -> None:
    """Raises UserError for a wandb variable that wandb would reject only after the run has started."""
    mode = os.environ.get("WANDB_MODE")
    if mode and mode not in MODES:
        raise UserError(f"WANDB_MODE={mode}: expected one of {', '.join(MODES)}{nearest(mode, MODES)}")
    address = os.environ.get("WANDB_BASE_URL")
    if address and not re.fullmatch(r"https?://[^\s/]+(/\S*)?", address):
        raise UserError(f"WANDB_BASE_URL={address}: expected an address such as https://api.wandb.ai")
    run_id = os.environ.get("WANDB_RUN_ID")
    if run_id and re.search(r"[:;,#?/'\s]", run_id):
        raise UserError(f"WANDB_RUN_ID={run_id}: expected an id without spaces and without : ; , # ? / '")


class WeightsAndBiases(Sink):
    """Logs to a started run.

    Args:
        run: wandb's.
        repeated: steps whose records wandb already has. It cannot delete any, and the repeated figures are the same.
    """

    def __init__(self, run: Any, repeated: range):
        self._run, self._repeated = run, repeated

    def write(self, records: Sequence[dict[str, Any]]) -> None:
        """Logs records with their time, for which Weights & Biases has its own name."""
        for record in records:
            self._log({TIME.get(name, name): value for name, value in record.items()}, record["step"])

    def text(self, name: str, text: str, step: int) -> None:
        """Logs a text."""
        self._log({name: text}, step)

    def close(self, summary: dict[str, Any] | None) -> None:
        """Uploads the rest, within a time limit."""
        self._run.summary.update(summary or {})
        self._run.finish()

    def _log(self, values: dict[str, Any], step: int) -> None:
        if step not in self._repeated:
            self._run.log(values, step=step)


def start(
    directory: "RunDirectory", configuration: dict[str, Any], mode: str, repeated: range
) -> WeightsAndBiases | None:
    """Starts or resumes a Weights & Biases run; returns None if it is off or, with a note, could not start.

    The mode ``'auto'`` is WANDB_MODE, else online if a key is known and the server answers, else offline.
    ``wandb_id.txt`` holds the id, and ``wandb/`` the files for `wandb sync`.
    """
    if mode == "off":
        return None
    import wandb  # late: the import takes a second

    chosen: Any = mode
    if mode == "auto":
        chosen = os.environ.get("WANDB_MODE") or ("online" if key_source() and _answers() else "offline")
    local = None if "://" in directory.path else directory.path
    if local:
        os.makedirs(os.path.join(local, "wandb"), exist_ok=True)
    waits: Any = {"init_timeout": 10 * ANSWER_SECONDS, "finish_timeout": UPLOAD_SECONDS, "finish_timeout_raises": False}
    try:
        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "gpt2-tpu"),
            id=os.environ.get("WANDB_RUN_ID") or directory.read_or_create("wandb_id.txt", os.urandom(6).hex()),
            resume="allow" if chosen == "online" else None,
            mode=chosen,
            dir=local,
            config=configuration,
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True, **waits),
        )
    except (wandb.Error, ValueError) as error:  # an invalid key, or a server that rejects it: training matters more
        reason = " ".join(str(error).split())[:200]
        print(f"warning: Weights & Biases is off in this run: {type(error).__name__}: {reason}", file=sys.stderr)
        return None
    return WeightsAndBiases(run, repeated)


def key_source() -> str:
    """Returns the key's source, or an empty string."""
    if os.environ.get("WANDB_API_KEY"):
        return "WANDB_API_KEY"
    with contextlib.suppress(OSError, netrc.NetrcParseError):
        return "~/.netrc" if "api.wandb.ai" in netrc.netrc().hosts else ""
    return ""


def _answers() -> bool:
    """Whether the server answers in time; asked in a thread, since a DNS lookup has no timeout."""
    answered = threading.Event()

    def ask() -> None:
        import requests

        with contextlib.suppress(requests.RequestException):
            requests.head(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai"), timeout=ANSWER_SECONDS)
            answered.set()

    threading.Thread(target=ask, daemon=True).start()
    return answered.wait(ANSWER_SECONDS)
