"""A rehearsal: every host's TensorFlow server is a real one, and the run computes on all of them."""

import concurrent.futures
import json
import re
import socket
import subprocess

import grpc
import pytest

from pipeline.devices import slices
from tests.helpers.places import ROOT
from tools.pod import logs
from tools.pod.request import Request

POD = {"tpu": "v4-16", "zone": "us-central2-b"}
RUN = ("--", "--gin_file=algpt2.gin", "--data=gs://bucket/data", "--run_dir=gs://bucket/run")


@pytest.fixture
def pod(cloud):
    """Two hosts that are set up."""
    cloud.slice(2, states=("ACTIVE",))
    assert cloud.pod("create", **POD).returncode == 0
    done = cloud.pod("setup", **POD)
    assert done.returncode == 0, done.stderr
    return cloud


def follow(pod, words):
    """Reads the log of host 0 until a line has these words; returns the lines."""
    lines = []
    with subprocess.Popen(
        pod.command("logs", POD["tpu"], POD["zone"], "--follow"),
        cwd=ROOT,
        env=pod.environment(),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        for line in process.stdout:
            lines.append(line)
            if words in line:
                break
        process.kill()
    return lines


@pytest.mark.slow
def test_a_run_on_several_hosts_restarts_on_75_and_keeps_its_exit_code(pod):
    pod.program(75, 3, 0)
    done = pod.pod("run", "--keep", *RUN, **POD)
    assert done.returncode == 3, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "the run ended with 3"
    starts = [json.loads(line) for line in (pod.home() / "starts").read_text().splitlines()]
    ports = pod.settings["hosts"]
    tpu = f"--tpu=v4-16@grpc://127.0.0.1:{ports[0]},127.0.0.1:{ports[1]}"
    assert starts == [[tpu, *RUN[1:]]] * 2
    logs = pod.pod("logs", "--host=all", **POD).stdout
    assert "start 1: the hosts' sum is 30" in logs and "start 2: the hosts' sum is 30" in logs
    assert re.search(r"host 1 \| \S+ .*host 1 of v4-16 serves at port", logs)
    status = pod.pod("status", **POD).stdout
    assert "ended with 3" in status and status.splitlines()[-1].split()[2] == "active"
    assert pod.pod("run", "--keep", *RUN, **POD).returncode == 0, "the next start is a new run"


@pytest.mark.slow
def test_an_active_run_is_not_started_twice_and_a_hung_one_is_started_anew(pod):
    pod.program()
    done = pod.pod("run", *RUN, **POD)
    assert done.returncode == 0, done.stderr
    assert "goes on without this machine" in done.stdout
    follow(pod, "waits")
    second = pod.pod("run", *RUN, **POD)
    assert second.returncode == 2 and "a run is active on this slice" in second.stderr
    other = pod.pod("run", "--keep", *RUN, "--gin_param=train.steps=95000", **POD)
    assert other.returncode == 2 and "another run is active" in other.stderr
    assert pod.pod("setup", **POD).returncode == 0, "what is installed already is left alone"

    servers = [json.loads((pod.home(h) / "systemd" / "gpt2-tpu-worker.service.json").read_text()) for h in range(2)]
    done = pod.pod("restart", **POD)
    assert done.returncode == 0, done.stderr
    anew = [json.loads((pod.home(h) / "systemd" / "gpt2-tpu-worker.service.json").read_text()) for h in range(2)]
    assert all(before["main"] != after["main"] for before, after in zip(servers, anew, strict=True))
    follow(pod, "start 2: the hosts' sum is 30")

    done = pod.pod("stop", **POD)
    assert done.returncode == 0, done.stderr
    assert "ended with 0" in pod.pod("status", **POD).stdout


@pytest.mark.slow
def test_a_preempted_slice_is_asked_for_again_and_the_run_goes_on(pod):
    pod.program()
    with subprocess.Popen(
        pod.command("run", POD["tpu"], POD["zone"], "--keep", "--spot", *RUN),
        cwd=ROOT,
        env=pod.environment(),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line == "waits\n":
                pod.becomes("mine", "SUSPENDED")
                pod.slice(2, states=("WAITING_FOR_RESOURCES", "ACTIVE"))
    assert process.returncode == 0, lines
    said = "".join(lines)
    assert "mine is SUSPENDED: asking for it again" in said and "mine: WAITING_FOR_RESOURCES" in said
    assert said.count("started on host 0 of mine") == 2 and lines[-1] == "the run ended with 0\n"
    asked = [words for words in pod.ran() if words[3] == "create"]
    assert len(asked) == 2 and "--spot" in asked[1]


def test_one_host_runs_with_its_own_chips(cloud):
    cloud.slice(1, states=("ACTIVE",))
    cloud.pod("create")
    bare = cloud.pod("run", *RUN)
    assert bare.returncode == 2 and "not set up; expected setup first" in bare.stderr
    cloud.pod("setup")
    done = cloud.pod("run", "--keep", *RUN)
    assert done.returncode == 0, done.stderr
    assert json.loads((cloud.home() / "starts").read_text())[0] == "--tpu=v3-8@local"
    assert not (cloud.home() / "systemd" / "gpt2-tpu-worker.service").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (RUN[:-1], "--run_dir= after --: expected a gs:// address"),
        ((*RUN[:2], "--data=shards", RUN[3]), "--data=shards after --"),
        ((*RUN, "--tpu=v4-8"), "the slice is that of --tpu before it"),
        ((*RUN, "--gin_param=train.stepz=1"), "stepz"),
        ((*RUN, "--gin_param=train.global_batch=100"), "100"),
    ],
)
def test_what_training_would_refuse_is_refused_before_anything_starts(cloud, arguments, says):
    done = cloud.pod("run", *arguments, **POD)
    assert done.returncode == 2 and says in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not cloud.ran()


def test_a_run_waits_for_the_servers_of_hosts_that_come_back(run_module):
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(1))
    there = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    assert run_module("tools.pod.on_host", "await", f"--hosts={there},{there}").returncode == 0
    server.stop(None)
    with socket.create_server(("127.0.0.1", 0)) as hung:
        there = f"127.0.0.1:{hung.getsockname()[1]}"
        done = run_module("tools.pod.on_host", "await", f"--hosts={there}", "--seconds=0.3")
    assert done.returncode == 1 and done.stderr == f"failed: the server at {there} has not answered for 0.3 s\n"


def test_logs_prints_as_many_lines_as_asked_for_by_their_times(monkeypatch, capsys):
    def journal(request, host, command):
        lines = f"for i in $(seq 1000 1299); do echo 2026-01-01T00:00:$i of {host}; done"
        return ["bash", "-c", lines]

    monkeypatch.setattr("tools.pod.commands.ssh", journal)
    request = Request(name="mine", piece=slices.find(POD["tpu"]), zone=POD["zone"])
    logs.logs(request, "all", 300, follow=False)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 600
    assert [line.split()[-1] for line in lines[:2]] == ["0", "1"] and lines[-1].startswith("host 1 | 2026")
