"""Stands in for gcloud: keeps slices in the folder FAKE_CLOUD, answers as gcloud does, and fails where told to.

FAKE_CLOUD holds ``cloud.json`` (``hosts``: ports for servers; ``states``: what a request goes through, a state for
each look), ``failures.json`` ([WORDS, MESSAGE, TIMES]: a command with these words fails), ``commands.jsonl`` (what
was run), ``requests/NAME.json`` and ``hosts/INDEX``, the home of each host, in which ``ssh --command`` runs a shell.
"""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

CLOUD = pathlib.Path(os.environ["FAKE_CLOUD"])
BIN = CLOUD / "bin"
DOWN = "ssh: connect to host 203.0.113.7 port 22: Connection timed out\n"
NO_SSH = "ERROR: (gcloud.compute.tpus.tpu-vm.ssh) [/usr/bin/ssh] exited with return code [255].\n"


def main() -> int:
    words = sys.argv[1:]
    with (CLOUD / "commands.jsonl").open("a") as log:
        log.write(json.dumps(words) + "\n")
    if message := failure(words):
        sys.stderr.write(message + "\n")
        return 1
    flags = dict(word.removeprefix("--").partition("=")[::2] for word in words if word.startswith("--"))
    if words[:2] != ["compute", "tpus"]:  # what sets a project up, and copies files
        return 0
    group, verb, *names = [word for word in words if not word.startswith("--")][2:]
    return VERBS[group, verb](names, flags)


def failure(words):
    path = CLOUD / "failures.json"
    failures = json.loads(path.read_text()) if path.exists() else []
    for entry in failures:
        wanted, message, times = entry
        if times and wanted in " ".join(words):
            entry[2] -= 1
            path.write_text(json.dumps(failures))
            return message
    return ""


def settings():
    return json.loads((CLOUD / "cloud.json").read_text())


def path_of(name):
    return CLOUD / "requests" / f"{name}.json"


def missing(verb, name):
    place = f"projects/p/locations/z/queuedResources/{name}"
    sys.stderr.write(f"ERROR: (gcloud.compute.tpus.{verb}) NOT_FOUND: Resource '{place}' was not found\n")
    return 1


def create(names, flags):
    path = path_of(names[0])
    if path.exists():
        sys.stderr.write("ERROR: (gcloud.compute.tpus.queued-resources.create) ALREADY_EXISTS: it already exists\n")
        return 1
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"type": flags["accelerator-type"], "looks": 0, "state": None}))
    for host in range(len(settings()["hosts"])):
        (CLOUD / "hosts" / str(host)).mkdir(parents=True)
    sys.stderr.write(f"Create request issued for: [{names[0]}]\n")
    return 0


def describe(names, flags):
    path = path_of(names[0])
    if not path.exists():
        return missing("queued-resources.describe", names[0])
    request, states = json.loads(path.read_text()), settings()["states"]
    state = request["state"] or states[min(request["looks"], len(states) - 1)]
    path.write_text(json.dumps(request | {"looks": request["looks"] + 1}))
    answer = {"name": names[0], "state": {"state": state}}
    if state == "FAILED":
        answer["state"]["failedData"] = {"error": {"code": 8, "message": settings().get("reason", "")}}
    print(json.dumps(answer))
    return 0


def describe_tpu(names, flags):
    if not path_of(names[0]).exists():
        return missing("tpu-vm.describe", names[0])
    request = json.loads(path_of(names[0]).read_text())
    endpoints = [{"ipAddress": "127.0.0.1", "port": port - 20} for port in settings()["hosts"]]
    state = settings().get("tpu", "READY")
    print(json.dumps({
        "name": names[0],
        "acceleratorType": request["type"],
        "state": state,
        "health": "HEALTHY",
        "networkEndpoints": endpoints,
    }))  # fmt: skip
    return 0


def delete(names, flags):
    if not path_of(names[0]).exists():
        return missing("queued-resources.delete", names[0])
    end_processes()
    shutil.rmtree(CLOUD / "hosts", ignore_errors=True)
    path_of(names[0]).unlink()
    sys.stderr.write(f"Deleted queued resource [{names[0]}].\n")
    return 0


def end_processes():
    """Ends what the hosts' units have started, as a machine that is taken away does."""
    for path in CLOUD.glob("hosts/*/systemd/*.json"):
        unit = json.loads(path.read_text())
        for pid in (unit.get("supervisor"), unit.get("main")):
            with contextlib.suppress(ProcessLookupError):
                if pid:
                    os.killpg(pid, signal.SIGKILL)


def ssh(names, flags):
    home = CLOUD / "hosts" / flags["worker"]
    sys.stderr.write("Using ssh batch size of 1. Attempting to SSH into 1 nodes with a total of 1 workers.\n")
    if not home.exists() or (home / "down").exists():
        sys.stderr.write(DOWN + NO_SSH)
        return 1
    environment = {"HOME": str(home), "PATH": f"{BIN}:/usr/bin:/bin", "FAKE_CLOUD": str(CLOUD)}
    kept = {name: os.environ[name] for name in ("XLA_FLAGS", "TF_XLA_FLAGS") if name in os.environ}
    return subprocess.run(["sh", "-c", flags["command"]], cwd=home, env=environment | kept, check=False).returncode


def scp(names, flags):
    source, (_, _, to) = names[0], names[1].partition(":")
    shutil.copy(source, CLOUD / "hosts" / flags["worker"] / to)
    return 0


VERBS = {
    ("queued-resources", "create"): create,
    ("queued-resources", "describe"): describe,
    ("queued-resources", "delete"): delete,
    ("tpu-vm", "describe"): describe_tpu,
    ("tpu-vm", "ssh"): ssh,
    ("tpu-vm", "scp"): scp,
}

if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    sys.exit(main())
