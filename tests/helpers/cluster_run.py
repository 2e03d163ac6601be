"""The training command, its devices those of TensorFlow servers, as a slice's are; they are struck where it is told.

    python -m tests.helpers.cluster_run HOSTS DEVICES BLOW <flags of pipeline.train>

HOSTS are addresses with commas; BLOW is JSON: null, or [phase, signal, process]. Where the phase begins for the first
time, the process gets the signal. A phase is a call that the heartbeat watches, by its kind, or WRITE or COMMIT.
"""

import contextlib
import json
import os
import sys

from pipeline import cli, train
from pipeline.devices import connect, heartbeat

WRITE, COMMIT = "a checkpoint's files", "a checkpoint's commit"


def connected(addresses, devices):
    """Returns what ``connect`` returns for a slice, but for a strategy that needs no TPU."""
    import tensorflow as tf
    from tensorflow.python.distribute import mirrored_strategy

    cluster = tf.train.ClusterSpec({"worker": addresses})
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(cluster, master=f"grpc://{addresses[0]}")
    tf.config.experimental_connect_to_cluster(resolver)
    hosts = [f"/job:worker/replica:0/task:{task}" for task in range(len(addresses))]
    mirrored_strategy._is_device_list_single_worker = lambda devices: True
    strategy = tf.distribute.MirroredStrategy(
        [f"{host}/device:CPU:{i}" for host in hosts for i in range(devices)],
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )
    extended = strategy.extended
    extended._input_workers_devices = tuple(  # each host reads for its own devices
        (f"{host}/device:CPU:0", extended._devices[devices * task : devices * (task + 1)])
        for task, host in enumerate(hosts)
    )
    return connect.Connection(
        strategy=strategy, replicas=devices * len(hosts), hosts=len(hosts), kind="tpu", addresses=tuple(addresses)
    )


def strike(phase, number, process):
    """Lets the blow fall, and hosts be asked often enough for a test."""
    from pipeline.runs import checkpoint_files, checkpoints

    heartbeat.ASK_SECONDS, heartbeat.responds.__defaults__ = 0.5, (2.0,)
    struck = False

    def begins(now):
        nonlocal struck
        if now == phase and not struck:
            struck = True
            print(f"strikes in {phase}", flush=True)
            os.kill(process, number)

    def struck_in(module, name, now):
        original = getattr(module, name)
        setattr(module, name, lambda *arguments: (begins(now), original(*arguments))[1])

    struck_in(checkpoints, "_write_state", WRITE)
    struck_in(checkpoint_files, "commit", COMMIT)
    original = heartbeat.Heartbeat.watching

    @contextlib.contextmanager
    def watching(self, kind, **options):
        with original(self, kind, **options):
            begins(kind)
            yield

    heartbeat.Heartbeat.watching = watching


def main():
    addresses, devices, blow = sys.argv.pop(1).split(","), int(sys.argv.pop(1)), json.loads(sys.argv.pop(1))
    cli.import_tensorflow()
    connect.connect = lambda target: connected(addresses, devices)
    from pipeline.training import session
    from pipeline.training.runtime.workers import Workers

    session.Session.workers = property(lambda self: Workers(self.connection.strategy, 1, 0))
    session.Session.peak_flops = lambda self: 1e12
    if blow:
        strike(*blow)
    cli.run(train.main, train.define_flags)


if __name__ == "__main__":
    main()
