"""Runs gcloud: returns an answer in JSON, or streams the lines of a command on a host."""

import json
import subprocess
from collections.abc import Callable
from typing import Any

from pipeline.errors import UserError
from tools.pod import failures
from tools.pod.commands import Command
from tools.pod.request import Request

LINES_KEPT = 200


def answer(command: Command, request: Request) -> dict[str, Any] | None:
    """Returns a command's JSON answer, None if what it asks for does not exist.

    Raises:
        UserError: The input or the project is wrong; one sentence.
        WorkFailedError: Google Cloud could not do it; one sentence.
    """
    done = _started(command, capture_output=True)
    output, error = done.communicate()
    if done.returncode:
        if failures.MISSING.search(error):
            return None
        raise failures.explain(error, request)
    return json.loads(output) if output.strip() else {}


def lines(command: Command, on_line: Callable[[str], None] = lambda line: None) -> tuple[int, list[str]]:
    """Runs a command to completion; returns its exit code and its last lines, with standard error."""
    process = _started(command, capture_output=False)
    kept: list[str] = []
    assert process.stdout
    try:
        for line in process.stdout:
            kept = [*kept[1 - LINES_KEPT :], line.rstrip("\n")]
            on_line(kept[-1])
    except BaseException:
        process.terminate()
        raise
    finally:
        process.stdout.close()
        code = process.wait()
    return code, kept


def _started(command: Command, *, capture_output: bool) -> "subprocess.Popen[str]":
    error = subprocess.PIPE if capture_output else subprocess.STDOUT
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=error,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
    except FileNotFoundError:
        raise UserError(
            f"{command[0]} is not installed here; https://cloud.google.com/sdk/docs/install says how"
        ) from None
