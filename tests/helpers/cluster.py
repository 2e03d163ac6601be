"""A make-believe slice: TensorFlow servers on 127.0.0.1, a folder each, and the training command over them."""

import json
import signal
import socket
import subprocess

from tests.helpers.places import ROOT


class Cluster:
    """Servers as hosts.

    Args:
        folder: of the servers' folders.
        python: starts a module of this project.
        environment: of every process, whose gs:// paths go to an emulator.
        hosts: their number.
        devices: of each host.
    """

    def __init__(self, folder, python, environment, *, hosts, devices=1):
        self._folder, self._python, self._devices = folder, python, devices
        self._environment = environment | {"CUDA_VISIBLE_DEVICES": "-1", "PYTHONPATH": str(ROOT)}
        free = [socket.create_server(("127.0.0.1", 0)) for _ in range(hosts)]
        self.addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in free]
        for each in free:
            each.close()
        self._servers = {}

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        for host in list(self._servers):
            self.end(host)

    def start(self):
        """Starts the servers that do not run. Each names itself in its requests to the bucket."""
        started = [host for host in range(len(self.addresses)) if host not in self._servers]
        for host in started:
            folder = self._folder / f"host-{host}"
            folder.mkdir(parents=True, exist_ok=True)
            self._servers[host] = subprocess.Popen(
                [self._python, "-m", "tests.helpers.cluster_host", self.addresses[host], str(self._devices)],
                cwd=folder,
                env=self._environment | {"GOOGLE_AUTH_TOKEN_FOR_TESTING": f"host-{host}"},
                stdout=subprocess.PIPE,
                text=True,
            )
        for host in started:
            self._servers[host].pid_of_server = int(self._servers[host].stdout.readline().split()[1])

    def end(self, host):
        """Kills a server, running, stopped or dead."""
        server = self._servers.pop(host)
        server.kill()
        server.communicate()

    def train(self, *flags, phase=None, number=signal.SIGKILL, host=0):
        """Trains on the hosts; one gets a signal where a phase begins. Returns the process that has ended."""
        blow = phase and [phase, number, self._servers[host].pid_of_server]
        words = [",".join(self.addresses), str(self._devices), json.dumps(blow)]
        replicas = len(self.addresses) * self._devices
        return train(
            self._python,
            self._environment,
            "tests.helpers.cluster_run",
            *words,
            f"--tpu=virtual-{replicas}",
            *flags,
        )


def train(python, environment, module, *arguments):
    """Runs a training command to its end; what it prints is in ``stdout``, all of it."""
    return subprocess.run(
        [python, "-m", module, *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=1800,
    )
