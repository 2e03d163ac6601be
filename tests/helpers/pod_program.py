"""In place of pipeline.train in a rehearsal: adds numbers up on every host, then ends as ~/program.json says.

``codes`` are the exit codes of its starts; after the last of them it waits for SIGTERM, and ends with 0.
"""

import json
import pathlib
import signal
import sys

import tensorflow as tf


def main() -> int:
    home = pathlib.Path.home()
    with (home / "starts").open("a") as log:
        log.write(json.dumps(sys.argv[1:]) + "\n")
    starts = len((home / "starts").read_text().splitlines())
    address = next(word.partition("@")[2] for word in sys.argv if word.startswith("--tpu="))
    total = 10.0 if address == "local" else on_hosts(address)
    print(f"start {starts}: the hosts' sum is {total:g}", flush=True)
    codes = json.loads((home / "program.json").read_text())["codes"] if (home / "program.json").exists() else [0]
    if starts <= len(codes):
        return codes[starts - 1]
    print("waits", flush=True)
    signal.sigwait({signal.SIGTERM})
    print("saved", flush=True)
    return 0


def on_hosts(address):
    """Connects as pipeline.devices.connect does, computes on each server, and adds up here."""
    resolver = tf.distribute.cluster_resolver.TPUClusterResolver(address)
    tf.config.experimental_connect_to_cluster(resolver)
    parts = []
    for task in range(len(resolver.cluster_spec().job_tasks("worker"))):
        with tf.device(f"/job:worker/replica:0/task:{task}/device:CPU:0"):
            part = tf.reduce_sum(tf.range(5.0)) * (task + 1)
        assert f"task:{task}" in part.device, part.device
        parts.append(part.numpy())
    return float(sum(parts))


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    sys.exit(main())
