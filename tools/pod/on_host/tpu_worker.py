"""The TensorFlow server of one host of a slice: through it, the program on host 0 uses this host's chips.

    python -m tools.pod.on_host.tpu_worker --tpu=v3-128 --index=3 --hosts=10.0.0.2:8490,10.0.0.3:8490,…

It replaces ``start_grpc_tpu_worker`` of the wheel tensorflow-tpu 2.20.0, and sets the same environment. That program
has no v6e in its table of slices, imports TensorFlow before it sets the environment, and needs a metadata server. Its
installer, ``start_grpc_tpu_service``, writes a unit for ~/.local/bin that ends with the user's session.
"""

import os

from absl import flags

from pipeline import cli
from pipeline.devices import environment, slices
from pipeline.errors import UserError

FLAGS = flags.FLAGS


def main() -> None:
    """Serves until it is killed."""
    addresses = cli.required("hosts", "HOST:PORT of each host").split(",")
    piece = slices.find(cli.required("tpu", "a slice such as v3-128"))
    if len(addresses) != piece.hosts or not 0 <= FLAGS.index < piece.hosts:
        has = f"--hosts has {len(addresses)} addresses, and --index={FLAGS.index}"
        raise UserError(f"{has}; expected those of {piece.name}, which has {piece.hosts} hosts")
    hosts = [address.rpartition(":")[0] for address in addresses]
    os.environ.update(environment.worker_variables(piece, FLAGS.index, hosts))
    cli.import_tensorflow()
    import tensorflow as tf

    # A cluster of one: when the program on host 0 connects, it tells each server of the others.
    port = addresses[FLAGS.index].rpartition(":")[2]
    cluster = tf.train.ClusterSpec({"worker": [f"localhost:{port}"]})
    server = tf.distribute.Server(cluster, job_name="worker", task_index=0)
    print(f"host {FLAGS.index} of {piece.name} serves at port {port}", flush=True)
    server.join()


def define_flags() -> None:
    """Defines the flags."""
    cli.define_tpu_flag("The slice that this host is part of.")
    flags.DEFINE_integer("index", 0, "This host's index.")
    flags.DEFINE_string("hosts", None, "HOST:PORT of each host's server, comma-separated.")


if __name__ == "__main__":
    cli.run(main, define_flags)
