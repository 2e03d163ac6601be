"""Connects to what ``--tpu`` names and returns the tf.distribute strategy over it.

TensorFlow is imported only after tpu_target.py has found something to connect to.
"""

import contextlib
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.devices import hardware, tf_config, tpu_target
from pipeline.devices.slices import Slice
from pipeline.errors import UserError, WorkerLostError, pip_install
from pipeline.progress import counted

# Messages of TensorFlow, libtpu and the Cloud TPU API, as patterns, and their meaning for the user. The first match
# decides. Status numbers are matched together with a word: ports, process ids and steps have the same digits.
MEANINGS = (
    (r"already in use|lockfile|\bheld by\b|Device or resource busy", "is busy: another process uses it"),
    (
        r"already (been )?initialized|previously initialized|different incarnation|session.*\b(was|is) reset",
        "was initialised by another process; end that one, or restart the TPU, and start again",
    ),
    (
        r"\b(googleapiclient|oauth2client|Google API client)\b",
        f"cannot be looked up by name: {pip_install(' '.join(tpu_target.API_CLIENT))}",
    ),
    (
        r"PERMISSION_?DENIED|UNAUTHENTICATED|\b(permissions?|Forbidden|Unauthorized|credentials?)\b"
        r"|\bHTTP ?(Error )?40[13]\b|insufficient.*\bscope",
        "may not be used by this account (no permission)",
    ),
    (
        r"\bUNHEALTHY|\bnot healthy|\bPREEMPTED\b|\bstate(:| is) \W?(STOPP(ED|ING)|TERMINATED|DELETING)\b",
        "is not healthy or was preempted",
    ),
    (r"\bnot yet ready\b|\bstate is \W?CREATING\b|to become healthy", "is not ready yet; start again when it is"),
    (
        r"\bNOT_FOUND\b|\bHTTP ?(Error )?404\b|No TPUs with the specified|\b(was not|could not be) found\b",
        "does not exist in this project and zone",
    ),
    (
        r"UNAVAILABLE|failed to connect|Connection (refused|reset)|DEADLINE_?EXCEEDED|timed? ?out|unreachable"
        r"|No route to host|Name or service",
        "is not reachable",
    ),
    (
        r"No (registered .*)?OpKernel|not registered|InitializeTPUSystem|ConfigureDistributedTPU|No TPU devices"
        r"|TPUs not found in the cluster|Cannot find any TPU cores",
        "is not usable: TensorFlow finds no TPU",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Connection:
    """The devices that training runs on.

    Args:
        strategy: A tf.distribute.Strategy; the default one for a single device.
        replicas: Copies of the model; each takes its share of the global batch.
        hosts: Machines that read data.
        slice: The slice that was requested and found, if any.
        kind: "cpu", "gpu", "virtual" or "tpu".
        addresses: ``HOST:PORT`` of each host's gRPC server, if there are several processes.
        worker: Index of this process among those that train together; 0 is the chief, the only one that writes.
    """

    strategy: Any
    replicas: int
    hosts: int = 1
    slice: Slice | None = None
    kind: str
    addresses: tuple[str, ...] = ()
    worker: int = 0

    def describe(self) -> str:
        """Returns the devices in words: 'v3-128: 128 cores, 16 hosts'."""
        one = {"tpu": "TPU core", "gpu": "GPU", "virtual": "virtual CPU device", "cpu": "CPU"}[self.kind]
        several = f"{counted(self.replicas, one)}, {counted(self.hosts, 'host')}"
        return f"{self.slice.name}: {several}" if self.slice else several


def connect(target: tpu_target.Target) -> Connection:
    """Connects to what ``tpu_target.check`` found; UserError if it is unusable or not the slice."""
    if target.kind == "here":
        return _connect_here()
    if target.kind == "virtual":
        return _connect_virtual(target.replicas)
    return _connect_tpu(target)


def _connect_here() -> Connection:
    import tensorflow as tf

    if workers := tf_config.here():
        return _connect_workers(workers)
    gpus = tf.config.list_logical_devices("GPU")
    if len(gpus) > 1:
        return Connection(strategy=tf.distribute.MirroredStrategy(), replicas=len(gpus), kind="gpu")
    return Connection(strategy=tf.distribute.get_strategy(), replicas=1, kind="gpu" if gpus else "cpu")


def _connect_workers(workers: tf_config.Cluster) -> Connection:
    """Waits for all workers; each contributes its GPUs, or its CPU."""
    import tensorflow as tf

    print(f"worker {workers.index} of {len(workers.addresses)}: waiting for the others", flush=True)
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    except tf.errors.OpError as error:
        raise WorkerLostError(f"not all workers connected ({type(error).__name__}: {error})"[:300]) from error
    return Connection(
        strategy=strategy,
        replicas=strategy.num_replicas_in_sync,
        hosts=len(workers.addresses),
        kind="gpu" if tf.config.list_logical_devices("GPU") else "cpu",
        addresses=workers.addresses,
        worker=workers.index,
    )


def _connect_virtual(replicas: int) -> Connection:
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    virtual = [tf.config.LogicalDeviceConfiguration()] * replicas
    if len(tf.config.get_logical_device_configuration(cpu) or ()) != replicas:
        try:
            tf.config.set_logical_device_configuration(cpu, virtual)
        except RuntimeError:
            raise UserError(
                f"--tpu=virtual-{replicas}: TensorFlow already runs with "
                f"{len(tf.config.list_logical_devices('CPU'))} CPU devices; set virtual ones before its first op"
            ) from None
    devices = [f"CPU:{i}" for i in range(replicas)]
    # Not the default collectives: TensorFlow keeps one group per device, so a second strategy in a process would fail.
    strategy = tf.distribute.MirroredStrategy(devices, cross_device_ops=tf.distribute.ReductionToOneDevice())
    return Connection(strategy=strategy, replicas=replicas, kind="virtual")


def _connect_tpu(target: tpu_target.Target) -> Connection:
    import tensorflow as tf

    zone, project = (target.slice.zone, target.slice.project) if target.slice else (None, None)
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(target.address, zone=zone, project=project)
        hosts = [] if target.address == "local" else resolver.cluster_spec().job_tasks("worker")
        for host in hosts:  # TensorFlow would wait for a silent one for minutes
            tpu_target.require_reachable(host)
        if hosts:
            tf.config.experimental_connect_to_cluster(resolver)
        topology = tf.tpu.experimental.initialize_tpu_system(resolver)
        observed = hardware.observe(resolver, topology, target.address)
        if target.slice:
            hardware.check(target.slice, observed)
            if observed.generation is None:
                what = f"{target.slice.generation} is not confirmed, {observed.cores} cores are"
                print(f"warning: no source tells the generation of {target.address!r}: {what}", file=sys.stderr)
        strategy = tf.distribute.TPUStrategy(resolver)
    except UserError:
        raise
    except Exception as error:
        raise explain(error, target.address) from error
    return Connection(
        strategy=strategy,
        replicas=strategy.num_replicas_in_sync,
        hosts=observed.hosts,
        slice=target.slice,
        kind="tpu",
        addresses=tuple(hosts),
    )


@contextlib.contextmanager
def on_this_machine() -> Iterator[None]:
    """Runs ops on this process's CPU, whatever a cluster calls it.

    After connecting to a TPU by address, the main thread's ops run on the TPU's host, and would write files there.
    """
    import tensorflow as tf

    with tf.device(None), tf.device("CPU:0"):
        yield


def multiply_in_float32() -> None:
    """Makes float32 matrix products use all 24 bits; otherwise TPUs use 8 of them, and GPUs 11."""
    import tensorflow as tf

    tf.config.experimental.enable_tensor_float_32_execution(False)


def explain(error: Exception, address: str) -> UserError:
    """Translates TensorFlow's error while connecting into one sentence for the user."""
    text = f"{type(error).__name__}: {error}"
    for pattern, meaning in MEANINGS:
        if re.search(pattern, text, re.IGNORECASE):
            return UserError(f"the TPU {address!r} {meaning}")
    first_line = str(error).strip().splitlines()[:1] or [""]
    return UserError(f"the TPU {address!r} cannot be used ({type(error).__name__}: {first_line[0][:200]})")
