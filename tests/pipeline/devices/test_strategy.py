"""Connecting: what runs here is run, and what TensorFlow raises for a TPU is told in one sentence each."""

import types

import pytest
import tensorflow as tf

from pipeline.devices import hardware, strategy, target
from pipeline.devices.slices import find
from pipeline.errors import UserError


def test_here():
    connection = strategy.connect(None)
    assert (connection.replicas, connection.hosts, connection.kind) == (1, 1, "cpu")
    assert connection.strategy.num_replicas_in_sync == 1


def test_virtual_devices(virtual_devices):
    connection = strategy.connect(f"virtual-{len(virtual_devices)}")
    assert connection.replicas == connection.strategy.num_replicas_in_sync == len(virtual_devices)
    assert connection.kind == "virtual"


def test_virtual_devices_after_tensorflow_began(virtual_devices):
    tf.zeros([]).numpy()
    with pytest.raises(
        UserError, match=f"already runs with {len(virtual_devices)} CPU devices; set virtual ones before"
    ):
        strategy.connect("virtual-3")


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        (
            tf.errors.NotFoundError(None, None, "No TPUs with the specified names exist."),
            "does not exist in this project",
        ),
        (RuntimeError('<HttpError 404 when requesting ... "Resource was not found">'), "does not exist"),
        (RuntimeError("<HttpError 403 ... The caller does not have permission>"), r"may not be used by this account"),
        (tf.errors.PermissionDeniedError(None, None, "PERMISSION_DENIED"), "may not be used by this account"),
        (tf.errors.UnavailableError(None, None, "failed to connect to all addresses"), "is not reachable"),
        (tf.errors.DeadlineExceededError(None, None, "Deadline Exceeded"), "is not reachable"),
        (
            RuntimeError("The TPU is already in use by process with pid 4711. Not attempting to load libtpu.so"),
            "is busy",
        ),
        (RuntimeError("ABORTED: libtpu_lockfile exists"), "is busy"),
        (
            tf.errors.FailedPreconditionError(None, None, "The TPU system has already been initialized by another"),
            "was initialised by another process",
        ),
        (tf.errors.AbortedError(None, None, "session was reset"), "was initialised by another process"),
        (RuntimeError('TPU "t" is unhealthy: "UNHEALTHY_TENSORFLOW"'), "is not healthy or was preempted"),
        (ImportError("No module named 'googleapiclient'"), "pip install google-api-python-client"),
        (
            tf.errors.InvalidArgumentError(
                None, None, "No OpKernel was registered to support Op 'ConfigureDistributedTPU'"
            ),
            "finds no TPU",
        ),
        (ValueError("something new\nwith a second line"), r"cannot be used \(ValueError: something new\)"),
    ],
)
def test_what_tensorflow_raises_becomes_one_sentence(error, meaning):
    told = strategy.explain(error, "my-tpu")
    assert isinstance(told, UserError)
    assert str(told).startswith("the TPU 'my-tpu' ")
    assert tf.compat.as_text(str(told)).count("\n") == 0
    with pytest.raises(UserError, match=meaning):
        raise told


@pytest.fixture
def described_tpu(monkeypatch):
    """A TPU that answers as a v2-8 does; TPUStrategy itself is the traced pod's business (test_traced_pod.py)."""
    topology = types.SimpleNamespace(num_tasks=1, num_tpus_per_task=8)
    monkeypatch.setattr(
        target, "resolve", lambda tpu, **_: target.Target(kind="tpu", address="grpc://x:1", slice=find(tpu))
    )
    resolver = types.SimpleNamespace(cluster_spec=lambda: tf.train.ClusterSpec({"worker": ["x:1"]}))
    monkeypatch.setattr(tf.distribute.cluster_resolver, "TPUClusterResolver", lambda *_, **__: resolver)
    monkeypatch.setattr(tf.config, "experimental_connect_to_cluster", lambda resolver: None)
    monkeypatch.setattr(tf.tpu.experimental, "initialize_tpu_system", lambda resolver: topology)
    monkeypatch.setattr(hardware, "profiler_report", lambda address: "TPU type: TPU v2")
    made = types.SimpleNamespace(num_replicas_in_sync=8)
    monkeypatch.setattr(tf.distribute, "TPUStrategy", lambda resolver: made)
    return made


def test_a_tpu_that_is_what_was_asked_for(described_tpu):
    connection = strategy.connect("v2-8")
    assert (connection.strategy, connection.replicas, connection.hosts, connection.kind) == (described_tpu, 8, 1, "tpu")
    assert connection.addresses == ("x:1",)


def test_an_older_generation_stops_the_run(described_tpu):
    with pytest.raises(UserError, match=r"asked for v3-8 .*16 GiB a core.*, got v2, .*8 GiB a core"):
        strategy.connect("v3-8")


def test_a_failure_to_initialise_is_explained(described_tpu, monkeypatch):
    def fail(resolver):
        raise tf.errors.UnavailableError(None, None, "failed to connect to all addresses")

    monkeypatch.setattr(tf.tpu.experimental, "initialize_tpu_system", fail)
    with pytest.raises(UserError, match="the TPU 'grpc://x:1' is not reachable"):
        strategy.connect("v2-8")
