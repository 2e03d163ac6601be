"""Connected to another process, as to a TPU at an address: what belongs to this machine stays on it."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from tests.helpers.places import ROOT

SERVER = """
import sys, tensorflow as tf
cluster = tf.train.ClusterSpec({"worker": [sys.argv[1]]})
server = tf.distribute.Server(cluster, job_name="worker", task_index=0)
print("serves", flush=True)
sys.stdin.read()
"""
CLIENT = """
import sys, types, tensorflow as tf
cluster = tf.train.ClusterSpec({"worker": [sys.argv[1]]})
address = f"grpc://{sys.argv[1]}"
tf.config.experimental_connect_to_cluster(
    tf.distribute.cluster_resolver.SimpleClusterResolver(cluster, master=address))
print(f"by default: {tf.constant(1.0).device}")

import models
from pipeline.runs.checkpoints import Checkpoints, state_of
from pipeline.runs.metrics_writer import MetricsWriter
from pipeline.runs.run_directory import RunDirectory
from pipeline.runs.samples import SampleWriter

model = models.build(models.GPT2Config(layers=1, heads=2, width=16, context=32, vocabulary_size=300))
print(f"model: {model.variables[0].value.device}")
tokenizer = types.SimpleNamespace(encode=lambda text: [1, 2, 3], decode=str, end_of_text=299)
writer = SampleWriter(model, tokenizer, "once", on_host=True)
assert writer.write().startswith("once[")
print(f"copy: {writer._copy.variables[0].value.device}")
directory = RunDirectory("run")
directory.claim({}, frozenset())
metrics = MetricsWriter(directory, {}, wandb_mode="off", resume_step=0)
metrics.write({"step": 1, "loss": 2.0})
metrics.text("sample", "text", 1)
metrics.close()
checkpoints = Checkpoints("run/checkpoints", state_of(model))
checkpoints.save(1, {})
assert checkpoints.restore_newest().step == 1
values = {name: variable.numpy() for name, variable in state_of(model).items()}

import pathlib
from pipeline.devices.connect import Connection
from pipeline.evaluation import scoring
from tests.helpers import sessions
there = tf.distribute.OneDeviceStrategy("/job:worker/task:0/device:CPU:0")
connection = Connection(strategy=there, replicas=1, kind="cpu")
session = sessions.session_on(connection, pathlib.Path.cwd(), model.config, None)
pathlib.Path("manifest.json").write_text(session.manifest.dumps())
weight = lambda batch: float(tf.reduce_sum(batch["weights"]))
for _ in range(2):  # as after so many steps, again and again
    print(f"read: {sum(map(weight, session._batches().validation()))}")
scoring.scorer = lambda model, strategy: lambda batch: (0.0, weight(batch))
tokenizer = types.SimpleNamespace(fingerprint="f", end_of_text=0)
config = types.SimpleNamespace(context=16)
run = types.SimpleNamespace(
    model=types.SimpleNamespace(config=config), strategy=there, replicas=1, tokenizer=tokenizer)
print(f"scored: {scoring.score_data(run, session.data, 'train', batch=64)[0].tokens}")
print("saved: 1", flush=True)
sys.stdin.readline()  # until the server is silent
checkpoints._write(2, {}, values)
assert checkpoints.steps() == [1, 2]
"""


@pytest.mark.slow
def test_files_and_samples_are_made_on_this_machine_even_when_the_other_is_silent(python, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir(), here.mkdir()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "-1"}
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE) | {"text": True, "env": environment}
    with (
        subprocess.Popen([sys.executable, "-c", SERVER, address], cwd=there, **pipes) as server,
        subprocess.Popen([python, "-c", CLIENT, address], cwd=here, **pipes) as client,
    ):
        try:
            lines = []
            while not lines or lines[-1].strip() not in ("", "saved: 1"):
                lines.append(client.stdout.readline())
            server.send_signal(signal.SIGSTOP)
            output, error = client.communicate("it is silent\n", timeout=120)  # which a hang would take
        finally:
            server.kill()
            client.kill()
    assert client.returncode == 0, error
    output = "".join(lines) + output
    jobs = dict(line.split(": ") for line in output.splitlines())
    assert "/job:worker/" in jobs["by default"] and "/job:worker/" in jobs["model"]
    assert "/job:localhost/" in jobs["copy"]
    assert any((here / "run" / "tensorboard").iterdir()) and any((here / "run" / "checkpoints").iterdir())
    assert not list(there.iterdir())
    assert (jobs["read"], jobs["scored"]) == (f"{16 * 40 + 4}.0", f"{16 * 32 * 40 + 4}")
    assert error == "", "the end of the data is no error"
