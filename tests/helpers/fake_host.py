"""Stands in for a TPU VM's programs, by the name that it is called by: sudo, systemctl, journalctl and uv.

systemctl reads the unit files that are linked, really starts their commands, starts them again as the unit says (at
once), and keeps each unit's state and log in ~/systemd.
"""

import contextlib
import datetime
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

HOME = pathlib.Path(os.environ["HOME"])
CLOUD = pathlib.Path(os.environ["FAKE_CLOUD"])
STATE = HOME / "systemd"
PAUSE = 0.02


def sudo(words):
    os.execvp(words[0], words)


def uv(words):
    if words[0] == "venv":
        path = HOME / "pod" / "venv" / "bin" / "python"
        path.parent.mkdir(parents=True)
        path.write_text((CLOUD / "python.sh").read_text())
        path.chmod(0o755)
    elif (HOME / "no_network").exists():
        print("Resolved 61 packages in 1.2s")
        sys.exit("error: Failed to fetch: `https://example.invalid/tensorflow_tpu`\n  Caused by: connection closed")
    else:
        with (HOME / "installed").open("a") as log:
            log.write(shlex.join(words) + "\n")


def journalctl(words):
    units = [word.removeprefix("--unit=") for word in words if word.startswith("--unit=")]
    count = next(int(word.removeprefix("--lines=")) for word in words if word.startswith("--lines="))
    lines = [line for unit in units for line in read(STATE / f"{unit}.log").splitlines()]
    for line in sorted(lines)[-count:]:
        print(line.partition("]: ")[2] if "--output=cat" in words else line, flush=True)
    seen = len(lines)
    while "--follow" in words:
        lines = [line for unit in units for line in read(STATE / f"{unit}.log").splitlines()]
        print(*lines[seen:], sep="\n", end="\n" * (len(lines) > seen), flush=True)
        seen = len(lines)
        time.sleep(PAUSE)


def read(path):
    return path.read_text() if path.exists() else ""


def systemctl(words):
    verb, *rest = words
    unit = next((word for word in rest if word.endswith(".service")), "")
    values = json.loads(read(STATE / f"{unit}.json") or '{"ActiveState": "inactive"}')
    if verb == "link":
        STATE.mkdir(exist_ok=True)
        name = pathlib.Path(unit).name
        (STATE / name).unlink(missing_ok=True)
        (STATE / name).symlink_to(unit)
    elif verb == "show":
        print(*(f"{name}={values.get(name, 0)}" for name in ("ActiveState", "SubState", "NRestarts")), sep="\n")
    elif verb == "is-active":
        sys.exit(0 if values["ActiveState"] in ("active", "activating") else 3)
    elif verb == "is-system-running":
        print("running")
    elif verb == "kill" and values["main"]:
        os.killpg(values["main"], signal.Signals[rest[0].removeprefix("--signal=")])
    if verb in ("stop", "restart") and values["ActiveState"] in ("active", "activating"):
        stop(unit, block="--no-block" not in rest)
    if verb in ("start", "restart"):
        start(unit)


def stop(unit, block):
    (STATE / f"{unit}.stop").touch()
    told = 0
    while (values := json.loads(read(STATE / f"{unit}.json")))["ActiveState"] not in ("inactive", "failed"):
        if values["main"] not in (0, told):  # 0: between two starts
            told = values["main"]
            with contextlib.suppress(ProcessLookupError):
                os.kill(told, signal.SIGTERM)
        if told and not block:
            return
        time.sleep(PAUSE)


def start(unit):
    (STATE / f"{unit}.stop").unlink(missing_ok=True)
    (STATE / f"{unit}.json").unlink(missing_ok=True)
    subprocess.Popen([sys.argv[0], "supervise", unit], start_new_session=True, stdin=subprocess.DEVNULL,
                     stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    while not (STATE / f"{unit}.json").exists():
        time.sleep(PAUSE)


def supervise(unit):
    """Runs a unit to its end; a process of its own."""
    settings = dict(line.split("=", 1) for line in (STATE / unit).read_text().splitlines() if "=" in line)
    forced, always = settings.get("RestartForceExitStatus"), settings["Restart"] == "always"
    before = [line for line in (STATE / unit).read_text().splitlines() if line.startswith('ExecStartPre="')]
    for restarts in range(100):
        if (STATE / f"{unit}.stop").exists():
            keep(unit, "inactive", restarts, 0)
            return
        for line in before:  # but for those that begin with +, which run as root
            subprocess.run(unquoted(line.partition("=")[2]), cwd=settings["WorkingDirectory"], check=True)
        process = subprocess.Popen(
            unquoted(settings["ExecStart"]),
            cwd=settings["WorkingDirectory"],
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        keep(unit, "active", restarts, process.pid)
        for line in process.stdout:
            stamp = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%f+0000")
            with (STATE / f"{unit}.log").open("a") as log:
                log.write(f"{stamp} python[{process.pid}]: {line}")
        code = process.wait()
        status = str(code) if code >= 0 else signal.Signals(-code).name.removeprefix("SIG")
        if "ExecStopPost" in settings:
            subprocess.run(unquoted(settings["ExecStopPost"]), env={**os.environ, "EXIT_STATUS": status}, check=True)
        if (STATE / f"{unit}.stop").exists() or not (always or str(code) == forced):
            keep(unit, "inactive" if code in (0, -signal.SIGTERM) else "failed", restarts, 0)
            return
        keep(unit, "activating", restarts + 1, 0)


def keep(unit, state, restarts, main):
    values = {"ActiveState": state, "NRestarts": restarts, "main": main, "supervisor": os.getpid()}
    new = STATE / f"{unit}.new"
    new.write_text(json.dumps(values))
    new.replace(STATE / f"{unit}.json")


def unquoted(line):
    words = [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(line)]
    return words


if __name__ == "__main__":
    if sys.argv[1:2] == ["supervise"]:
        supervise(sys.argv[2])
    else:
        {"sudo": sudo, "systemctl": systemctl, "journalctl": journalctl, "uv": uv}[pathlib.Path(sys.argv[0]).name](
            sys.argv[1:]
        )
