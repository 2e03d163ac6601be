"""What writing and restoring checkpoints costs a coordinator: bytes, requests, seconds and memory.

    python -m tests.helpers.checkpoint_cost [GIN_PARAM …]

The model of gin/gpt2.gin with its Adafactor, changed by the gin settings, is on a TensorFlow server, as on a slice's
host; the bucket is the emulator; both are on this machine, so that the seconds are its own. Prints a line of JSON.
"""

import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

from tests.helpers import cluster
from tests.helpers.gcs_emulator import Emulator

RUN = "gs://corpus/run"


def memory(name):
    """Returns bytes of this process: VmRSS now, or VmHWM since ``forget``."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def forget():
    """Begins VmHWM anew (proc(5), clear_refs)."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")


def coordinate(address, settings):
    """In a process of its own, as the coordinator is: saves and restores, and prints what that took here."""
    import tensorflow as tf

    spec = tf.train.ClusterSpec({"worker": [address]})
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(spec, master=f"grpc://{address}")
    tf.config.experimental_connect_to_cluster(resolver)
    import models
    from pipeline.config import run_config
    from pipeline.config.train_config import schedule_of
    from pipeline.optimizers.build import build
    from pipeline.runs.checkpoints import Checkpoints, state_of

    run = run_config.load_run_config(["gpt2.gin"], settings, None)
    model_config = run.model
    with tf.device("/job:worker/task:0/device:CPU:0"):
        model = models.build(model_config, seed=0)
        optimizer = build(run.optimizer, schedule_of(run.settings))
        optimizer.build(model.trainable_variables)
    state = state_of(model, optimizer)
    assert all("/job:worker" in variable.device for variable in state.values())
    checkpoints = Checkpoints(RUN, state)
    figures = {"parameters": model_config.parameters()}
    figures["state_bytes"] = sum(v.dtype.size * v.shape.num_elements() for v in state.values())
    figures["largest_variable"] = max(v.dtype.size * v.shape.num_elements() for v in state.values())
    for name, call in (
        ("save", lambda: (checkpoints.save(1, {}), checkpoints.wait())),
        ("restore", checkpoints.restore_newest),
    ):
        print(f"begin {name}", flush=True)
        sys.stdin.readline()
        forget()
        before, began = memory("VmRSS"), time.monotonic()
        call()
        figures[f"{name}_seconds"] = round(time.monotonic() - began, 1)
        figures[f"{name}_memory"] = memory("VmHWM") - before
    figures["memory_before"] = before
    print(json.dumps(figures), flush=True)
    os._exit(0)


def main(settings):
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as free:
        path = pathlib.Path(folder)
        (path / "gcs").mkdir()
        free.close()
        with Emulator(path / "gcs") as bucket:
            with cluster.Cluster(path, sys.executable, bucket.environment, hosts=1, devices=1) as servers:
                command = [sys.executable, "-m", "tests.helpers.checkpoint_cost", servers.addresses[0], *settings]
                pipes = dict.fromkeys(("stdin", "stdout"), subprocess.PIPE)
                with subprocess.Popen(command, env=bucket.environment, text=True, **pipes) as coordinator:
                    asked = []
                    for line in coordinator.stdout:
                        if not line.startswith("begin "):
                            figures = json.loads(line)
                            break
                        asked.append(len(bucket.requests))
                        coordinator.stdin.write("\n")
                        coordinator.stdin.flush()
            for name, requests in (
                ("save", bucket.requests[asked[0] : asked[1]]),
                ("restore", bucket.requests[asked[1] :]),
            ):
                for verb in ("GET", "POST", "PUT", "DELETE"):
                    figures[f"{name}_{verb}"] = sum(seen.verb == verb for seen in requests)
                figures[f"{name}_sent"] = sum(seen.size for seen in requests)
            print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    words = sys.argv[1:]
    if words and words[0].startswith("127.0.0.1:"):
        coordinate(words[0], words[1:])
    main(words)
