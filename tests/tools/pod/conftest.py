"""A cloud that is make-believe: gcloud, ssh and systemd of tests/helpers/, hosts that are folders."""

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys

import pytest

from tests.helpers.places import ROOT

HELPERS = ROOT / "tests" / "helpers"
WHEELS = {"tensorflow_tpu": "2.20.0", "libtpu": "0.0.24", "tensorflow_text": "2.20.1"}


class Cloud:
    """Project, hosts and what tests want to know of them."""

    def __init__(self, folder, python):
        self.folder, self.python = folder, python
        self.bin = folder / "bin"
        self.bin.mkdir()
        for name, script in (("gcloud", "fake_gcloud"), *((n, "fake_host") for n in HOST_PROGRAMS)):
            path = self.bin / name
            path.write_text(f"#!{sys.executable} -IS\n{(HELPERS / f'{script}.py').read_text()}")
            path.chmod(0o755)
        self._write_python()
        self.slice(1)

    def _write_python(self):
        """Writes the hosts' Python: the tree under test, wheels by name only, and a program that needs no TPU."""
        for name, version in WHEELS.items():
            folder = self.folder / "wheels" / f"{name}-{version}.dist-info"
            folder.mkdir(parents=True)
            (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        python = shlex.quote(str(self.python))
        (self.folder / "python.sh").write_text(f"""#!/bin/sh
cd {shlex.quote(str(ROOT))}
case "$*" in
  "-m pipeline.train "*) shift 2; exec {python} -m tests.helpers.pod_program "$@" ;;
  *" check"*) PYTHONPATH={shlex.quote(str(self.folder / "wheels"))} exec {python} "$@" ;;
  *) exec {python} "$@" ;;
esac
""")

    def slice(self, hosts, states=("WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"), **settings):
        """Describes the slice that comes next."""
        ports = []
        for _ in range(hosts):
            with socket.create_server(("127.0.0.1", 0)) as free:
                ports.append(free.getsockname()[1])
        self.settings = {"hosts": ports, "states": states} | settings
        (self.folder / "cloud.json").write_text(json.dumps(self.settings))

    def fails(self, words, message, times=1000):
        """Lets commands with these words fail."""
        (self.folder / "failures.json").write_text(json.dumps([[words, message, times]]))

    def becomes(self, name, state):
        """Changes the state of a request, and takes its hosts' processes away."""
        path = self.folder / "requests" / f"{name}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"state": state}))

    def home(self, host=0):
        return self.folder / "hosts" / str(host)

    def program(self, *codes, host=0):
        (self.home(host) / "program.json").write_text(json.dumps({"codes": codes}))

    def ran(self):
        """Returns the commands of gcloud so far."""
        path = self.folder / "commands.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def environment(self):
        return os.environ | {"PATH": f"{self.bin}:{os.environ['PATH']}", "FAKE_CLOUD": str(self.folder)}

    def command(self, verb, tpu="v3-8", zone="europe-west4-a", *flags):
        module = [self.python, "-m", "tools.pod"]
        return [*module, verb, "--name=mine", f"--tpu={tpu}", f"--zone={zone}", "--poll_seconds=0.3", *flags]

    def pod(self, verb, *flags, tpu="v3-8", zone="europe-west4-a", **options):
        """Runs tools.pod; returns the process that has ended."""
        command = self.command(verb, tpu, zone, *flags)
        usual = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL, "env": self.environment()}
        return subprocess.run(command, cwd=ROOT, check=False, **usual | options)

    def end(self):
        code = "import sys; sys.path.insert(0, sys.argv[1]); import fake_gcloud; fake_gcloud.end_processes()"
        subprocess.run([sys.executable, "-c", code, HELPERS], env=self.environment(), check=True)


HOST_PROGRAMS = ("sudo", "systemctl", "journalctl", "uv")


@pytest.fixture
def cloud(tmp_path, python):
    """A project at a make-believe Google Cloud."""
    folder = tmp_path / "cloud"
    folder.mkdir()
    cloud = Cloud(folder, python)
    yield cloud
    cloud.end()
    shutil.rmtree(folder, ignore_errors=True)
