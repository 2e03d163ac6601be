"""One host of a make-believe slice: a TensorFlow server with CPU devices.

python -m tests.helpers.cluster_host HOST:PORT DEVICES
"""

import os
import sys


def main() -> None:
    import tensorflow as tf

    # A cluster of its own, as in tools/pod/tpu_worker.py.
    cluster = tf.train.ClusterSpec({"worker": [sys.argv[1]]})
    config = tf.compat.v1.ConfigProto(device_count={"CPU": int(sys.argv[2])})
    server = tf.distribute.Server(cluster, job_name="worker", task_index=0, config=config)
    print(f"serves {os.getpid()}", flush=True)
    server.join()


if __name__ == "__main__":
    main()
