"""Calls a function in a separate process, whose end frees its memory and which shares its libraries with nothing.

python -m pipeline.devices.own_process MODULE CALL RESULT    # the function's module, for whoever lists processes;
                                                               # two pickles; started by call() only
"""

import os
import pathlib
import pickle
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from pipeline.devices.wheels import pip_install_jax
from pipeline.errors import UserError, WorkFailedError

# What C++ libraries print before they abort ("F1127 02:40:47.33 20283 file.cc:12] Check failed: …", "ERROR: …"), and
# how they print where they were.
FATAL = re.compile(r"(F\d{4} |ERROR: |.*Check failed)")
STACK = re.compile(r"(@ |PC: @|\*\*\* |https?://\S+$|E\d{4} .*(coredump|process_state))")
ROOT = pathlib.Path(__file__).resolve().parents[2]
P = ParamSpec("P")
R = TypeVar("R")


def call(what: str, function: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> R:
    """Returns the result of a module's function, which imports what it needs; everything must be picklable.

    Raises:
        UserError, WorkFailedError: from the function; WorkFailedError also if the process, named by ``what``, died.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = pathlib.Path(folder, "call"), pathlib.Path(folder, "result")
        files[0].write_bytes(pickle.dumps((function, arguments, named)))
        command = [sys.executable, "-m", "pipeline.devices.own_process", function.__module__, *map(str, files)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if not files[1].is_file():
            raise WorkFailedError(f"{what} {death(done.returncode, done.stderr)}")
        result = pickle.loads(files[1].read_bytes())
    if isinstance(result, Exception):
        raise result
    return result


def death(code: int, stderr: str) -> str:
    """Says in a sentence how a process ended, what it printed about it, and what to do."""
    if code == -signal.SIGKILL:
        return "was killed, most likely for want of memory here: end other programs, or take a machine with more of it"
    ended = f"died ({signal.Signals(-code).name if code < 0 else code})"
    lines = [" ".join(line.split()) for line in stderr.splitlines() if line.strip()]
    fatal = [line for line in lines if FATAL.match(line)] or [line for line in lines if not STACK.match(line)][-1:]
    said = f": {fatal[0][:500]}" if fatal else ""
    settings = os.environ.get("LIBTPU_INIT_ARGS")
    advice = f"unset LIBTPU_INIT_ARGS={settings}, or " if settings else ""
    return f"{ended}{said}; {advice}{pip_install_jax()}, whose versions work together"


def main(call_file: str, result_file: str) -> None:
    """Calls the function, and writes its result, or its UserError or WorkFailedError."""
    function, arguments, named = pickle.loads(pathlib.Path(call_file).read_bytes())
    try:
        result = function(*arguments, **named)
    except (UserError, WorkFailedError) as error:
        result = error
    pathlib.Path(result_file).write_bytes(pickle.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[2:])
