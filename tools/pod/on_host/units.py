"""A host's systemd units: the training, and the TensorFlow server through which it uses the host's chips.

These are unit files, not transient units: a file can be read later and keeps its settings over a manual restart.
"""

import getpass
import pathlib
import subprocess
from collections.abc import Sequence

from pipeline.errors import WorkFailedError

ANSWER = "pod: "  # start of the line with a host's answer
TRAIN, WORKER = "gpt2-train.service", "gpt2-tpu-worker.service"
HOME = pathlib.Path.home() / "pod"
PYTHON = HOME / "venv" / "bin" / "python"
EXIT_STATUS = HOME / "exit_status"  # of the last run that ended; absent while one runs, and after a host went down
RESTART_SECONDS = 30
SAVING_SECONDS = 300  # for a stopped run to finish its loop of steps and save
# On 75 the run lost a worker, and the same command resumes; a person must look at any other exit.
TRAINS = f"Restart=no\nRestartForceExitStatus=75\nRestartSec={RESTART_SECONDS}\nTimeoutStopSec={SAVING_SECONDS}"
SERVES = "Restart=always\nRestartSec=5\nTimeoutStopSec=10"
# Left by a killed program, perhaps one of root's. Google's own TensorFlow tests remove it too.
UNLOCKS = "ExecStartPre=+/bin/rm -f /tmp/libtpu_lockfile"


def train(command: Sequence[str], hosts: str) -> str:
    """Returns the unit of a training command; its exit code stays in EXIT_STATUS.

    Args:
        command: Words.
        hosts: HOST:PORT of each host's server, comma-separated; empty for a run on this host's own chips.
    """
    # Not when the host goes down: the run did not end by itself, and `run --keep` restarts it.
    record = f'[ "$(systemctl is-system-running)" = stopping ] || echo "$EXIT_STATUS" > {EXIT_STATUS}'
    # After a reboot, a host's server takes minutes to respond, and a run that finds none ends with 2.
    waits = f"ExecStartPre={' '.join(map(quoted, on_host('await', f'--hosts={hosts}')))}\nTimeoutStartSec=infinity"
    service = f"{TRAINS}\nExecStopPost=/bin/sh -c {quoted(record)}\n{waits if hosts else UNLOCKS}"
    return _unit("GPT-2 training", command, service)


def worker(command: Sequence[str]) -> str:
    """Returns the unit of a host's TensorFlow server, which restarts after a reboot."""
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
    """Writes a unit and reloads systemd; returns whether it has changed."""
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
    """Whether a unit runs or waits for a restart."""
    return show(name).get("ActiveState") in ("active", "activating", "reloading")


def newest_line(name: str) -> str:
    """Returns the newest line of a unit's log."""
    command = ["sudo", "journalctl", f"--unit={name}", "--lines=1", "--output=cat", "--no-pager", "--quiet"]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    return lines[-1] if lines else ""
