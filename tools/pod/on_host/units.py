"""The systemd units of a host: the training, and the TensorFlow server that serves the host's chips to it.

They are unit files, not transient units: a file can be read afterwards, and keeps its settings over a restart by hand.
"""

import getpass
import pathlib
import subprocess
from collections.abc import Sequence

from pipeline.errors import WorkFailedError

ANSWER = "pod: "  # how the line begins by which a host answers
TRAIN, WORKER = "gpt2-train.service", "gpt2-tpu-worker.service"
HOME = pathlib.Path.home() / "pod"
PYTHON = HOME / "venv" / "bin" / "python"
EXIT_STATUS = HOME / "exit_status"  # of the run that ended last; absent while one runs, and after a host went down
RESTART_SECONDS = 30
SAVING_SECONDS = 300  # what a stopped run may take to finish its loop of steps and save
# On 75 a worker of the run went away, and the same command goes on; any other end is for a person to look at.
TRAINS = f"Restart=no\nRestartForceExitStatus=75\nRestartSec={RESTART_SECONDS}\nTimeoutStopSec={SAVING_SECONDS}"
SERVES = "Restart=always\nRestartSec=5\nTimeoutStopSec=10"
# Left over where a program was killed, perhaps one of root's. Google's own tests of TensorFlow remove it too.
UNLOCKS = "ExecStartPre=+/bin/rm -f /tmp/libtpu_lockfile"


def train(command: Sequence[str], hosts: str) -> str:
    """Returns the unit of a training command, whose exit code stays in EXIT_STATUS.

    Args:
        command: Words.
        hosts: HOST:PORT of each host's server, with commas; empty for a run on this host's own chips.
    """
    # Not when the host goes down: the end of that run is not its own, and `run --keep` starts it again.
    record = f'[ "$(systemctl is-system-running)" = stopping ] || echo "$EXIT_STATUS" > {EXIT_STATUS}'
    # A host that has rebooted takes minutes until its server answers, and a run that finds none ends with 2.
    waits = f"ExecStartPre={' '.join(map(quoted, on_host('await', f'--hosts={hosts}')))}\nTimeoutStartSec=infinity"
    service = f"{TRAINS}\nExecStopPost=/bin/sh -c {quoted(record)}\n{waits if hosts else UNLOCKS}"
    return _unit("GPT-2 training", command, service)


def worker(command: Sequence[str]) -> str:
    """Returns the unit of a host's TensorFlow server, which comes back after a boot."""
    return _unit(
        "TensorFlow server of this host's TPU chips", command, SERVES, "[Install]\nWantedBy=multi-user.target\n"
    )


def _unit(description: str, command: Sequence[str], service: str, install: str = "") -> str:
    return f"""\
[Unit]
Description={description}
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
Type=exec
User={getpass.getuser()}
WorkingDirectory={HOME / "checkout"}
Environment=PYTHONUNBUFFERED=1
ExecStart={" ".join(map(quoted, command))}
KillMode=mixed
{service}

{install}"""


def on_host(*words: str) -> list[str]:
    """Returns a command of this package."""
    return [str(PYTHON), "-m", "tools.pod.on_host", *words]


def quoted(word: str) -> str:
    """Quotes a word of a unit's command line (systemd.service(5), "Command lines")."""
    for character, spelled in (("\\", "\\\\"), ('"', '\\"'), ("%", "%%"), ("$", "$$")):
        word = word.replace(character, spelled)
    return f'"{word}"'


def install(name: str, text: str) -> bool:
    """Writes a unit and makes it known to systemd; returns whether it has changed."""
    path = HOME / "units" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    changed = not path.exists() or path.read_text(encoding="utf-8") != text
    if changed:
        path.write_text(text, encoding="utf-8")
        systemctl("link", "--force", str(path))
        systemctl("daemon-reload")
    return changed


def systemctl(*words: str) -> None:
    """Runs systemctl as root; WorkFailedError, with its last line, if it fails."""
    done = subprocess.run(["sudo", "systemctl", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise WorkFailedError(f"systemctl {words[0]}: {lines[-1]}")


def show(name: str) -> dict[str, str]:
    """Returns a unit's state: ActiveState, SubState and NRestarts."""
    command = ["systemctl", "show", name, "--property=ActiveState,SubState,NRestarts"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)


def is_active(name: str) -> bool:
    """Whether a unit runs, or waits to be started again."""
    return show(name).get("ActiveState") in ("active", "activating", "reloading")


def newest_line(name: str) -> str:
    """Returns the newest line of a unit's log."""
    command = ["sudo", "journalctl", f"--unit={name}", "--lines=1", "--output=cat", "--no-pager", "--quiet"]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    return lines[-1] if lines else ""
