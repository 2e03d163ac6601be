"""The starts of a run: a line of ``starts.jsonl`` for each process that trained it."""

import json
import pathlib
import shlex
import subprocess
import sys
import time
from typing import Any

from pipeline.runs.run_directory import RunDirectory

FILE_NAME = "starts.jsonl"
ROOT = pathlib.Path(__file__).resolve().parents[2]  # of the running code
GIT_SECONDS = 5.0


def add(directory: RunDirectory, **facts: Any) -> None:
    """Appends a line with these facts, the time, the command and the version of the code."""
    earlier = directory.read_text(FILE_NAME) if directory.exists(FILE_NAME) else ""
    line = {"time": round(time.time(), 3), "command": command(), "code": code(), **facts}
    directory.write(FILE_NAME, earlier + json.dumps(line, ensure_ascii=False) + "\n")


def command() -> str:
    """Returns this process's command line, quoted for a shell."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = ["-m", spec.name.removesuffix(".__main__")] if spec else sys.argv[:1]
    return shlex.join(["python", *program, *sys.argv[1:]])


def code() -> str | None:
    """Returns this code's git commit, ``-dirty`` if files differ from it, or a pod's tree; None if unknown."""
    if (ROOT / ".git").exists():
        question = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        try:
            done = subprocess.run(question, capture_output=True, text=True, timeout=GIT_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() or None if done.returncode == 0 else None
    stamp = ROOT.parent / "stamp"  # from tools.pod setup, which copies a checkout without its .git
    return f"tree {stamp.read_text(encoding='utf-8').strip()}" if stamp.is_file() else None
