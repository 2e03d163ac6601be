"""The shell commands that run on a slice's hosts, and their answers."""

import json
import shlex
from collections.abc import Iterable
from typing import Any

from tools.pod.on_host import units

ARCHIVE = "pod/source.tar.gz"  # below the user's home
# The answer of a host without setup: it has no program to ask.
FRESH = 'echo \'pod: {"stamp": ""}\''


def prepare() -> str:
    """Makes room, and tells the stamp of what is installed."""
    told = 'echo "pod: {\\"stamp\\": \\"$(cat pod/stamp)\\"}"'
    return f"mkdir -p pod; if [ -f pod/stamp ]; then {told}; else {FRESH}; fi"


def install(stamp: str) -> str:
    """Unpacks the archive and installs it."""
    unpack = f"rm -rf pod/new && mkdir pod/new && tar -xzf {ARCHIVE} -C pod/new"
    return f"{unpack} && sh pod/new/tools/pod/install.sh {shlex.quote(stamp)}"


def on_host(*words: str) -> str:
    """Runs tools.pod.on_host on a host after setup."""
    return f"cd pod/checkout && ../venv/bin/python -m tools.pod.on_host {shlex.join(words)}"


def state() -> str:
    """Reports what a host is doing, even without setup."""
    return f"if [ -f pod/stamp ]; then {on_host('state')}; else {FRESH}; fi"


def logs(lines: int, *, follow: bool) -> str:
    """Shows the units' logs, each line with its time."""
    how = f"--output=short-iso-precise --no-hostname --no-pager --lines={lines}{' --follow' if follow else ''}"
    return f"sudo journalctl --unit={units.TRAIN} --unit={units.WORKER} {how}"


def told(lines: Iterable[str]) -> dict[str, Any]:
    """Returns all answers of a host's program, combined."""
    answer: dict[str, Any] = {}
    for line in lines:
        if line.startswith(units.ANSWER):
            answer |= json.loads(line.removeprefix(units.ANSWER))
    return answer
