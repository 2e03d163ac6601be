"""Connecting: what runs here is run, and what TensorFlow raises for a TPU is told in one sentence each."""

import types

import pytest
import tensorflow as tf

from pipeline.devices import connect, hardware, slices, tpu_target
from pipeline.devices.slices import find
from pipeline.errors import UserError, pip_install

LOOKUP = "Could not lookup TPU metadata from name 'x'. Please doublecheck the tpu argument in the TPUClusterResolver "
LOOKUP += "constructor. Exception: "  # as TensorFlow's client wraps what the API answers


def test_here():
    connection = connect.connect(tpu_target.resolve(None))
    assert (connection.replicas, connection.hosts, connection.kind) == (1, 1, "cpu")
    assert connection.strategy.num_replicas_in_sync == 1


def test_virtual_devices(virtual_devices):
    connection = connect.connect(tpu_target.resolve(f"virtual-{len(virtual_devices)}"))
    assert connection.replicas == connection.strategy.num_replicas_in_sync == len(virtual_devices)
    assert connection.kind == "virtual"


def test_virtual_devices_after_tensorflow_began(virtual_devices):
    tf.zeros([]).numpy()
    with pytest.raises(
        UserError, match=f"already runs with {len(virtual_devices)} CPU devices; set virtual ones before"
    ):
        connect.connect(tpu_target.resolve("virtual-3"))


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
        (ImportError("No module named 'googleapiclient'"), "pip install google-api-python-client oauth2client"),
        (
            RuntimeError(
                "Missing runtime dependency on the Google API client. Run `pip install cloud-tpu-client` to fix."
            ),
            f"cannot be looked up by name: {pip_install('google-api-python-client oauth2client')}",
        ),
        (
            RuntimeError("The Application Default Credentials are not available. They are available if running in"),
            "no permission",
        ),
        (RuntimeError("Your default credentials were not found."), "no permission"),
        (
            ValueError(LOOKUP + '<HttpError 401 when requesting https://x returned "Request had invalid auth">'),
            "no perm",
        ),
        (RuntimeError("HTTP Error 403: Forbidden"), "no permission"),
        (ValueError(LOOKUP + "<HttpError 404 when requesting https://x?alt=json>"), "does not exist"),
        (RuntimeError('TPU "x" is not yet ready; state: "CREATING"'), "is not ready yet"),
        (RuntimeError('TPU "x" is not yet ready; state: "PREEMPTED"'), "is not healthy or was preempted"),
        (RuntimeError('TPU "x" is not yet ready; state: "STOPPED"'), "is not healthy or was preempted"),
        (RuntimeError('Timed out waiting for TPU "x" to become healthy'), "is not ready yet"),
        (RuntimeError("Cannot find any TPU cores in the system (master address grpc://x:1). This"), "finds no TPU"),
        (
            tf.errors.NotFoundError(
                None, None, "TPUs not found in the cluster. Failed in initialization: Invalid device"
            ),
            "finds no TPU",
        ),
        (ConnectionRefusedError(111, "Connection refused"), "is not reachable"),
        (
            tf.errors.UnknownError(
                None, None, "last error: ipv4:10.240.14.3:14030: Failed to connect to remote host: Connection refused"
            ),
            "is not reachable",
        ),
        # The digits and letters of a status, in what is none.
        (RuntimeError("ipv4:10.240.14.3:14030 said nothing"), r"cannot be used \(RuntimeError: ipv4:10.240.14.3:14030"),
        (RuntimeError("worker 34041 died"), r"cannot be used \(RuntimeError: worker 34041 died\)"),
        (RuntimeError("step 404 of 403"), r"cannot be used \(RuntimeError: step 404 of 403\)"),
        (RuntimeError("withheld by host"), r"cannot be used \(RuntimeError: withheld by host\)"),
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
    told = connect.explain(error, "my-tpu")
    assert isinstance(told, UserError)
    assert str(told).startswith("the TPU 'my-tpu' ")
    assert tf.compat.as_text(str(told)).count("\n") == 0
    with pytest.raises(UserError, match=meaning):
        raise told


@pytest.fixture
def described_tpu(monkeypatch, listening):
    """A TPU that answers as a v2-8 does; TPUStrategy itself is the traced pod's business (test_traced_pod.py)."""
    topology = types.SimpleNamespace(num_tasks=1, num_tpus_per_task=8)
    monkeypatch.setattr(
        tpu_target, "resolve", lambda tpu, **_: tpu_target.Target(kind="tpu", address="my-tpu", slice=find(tpu))
    )
    resolver = types.SimpleNamespace(
        cluster_spec=lambda: tf.train.ClusterSpec({"worker": [listening]}),
        master=lambda: f"grpc://{listening}",
    )
    monkeypatch.setattr(tf.distribute.cluster_resolver, "TPUClusterResolver", lambda *_, **__: resolver)
    monkeypatch.setattr(tf.config, "experimental_connect_to_cluster", lambda resolver: None)
    monkeypatch.setattr(tf.tpu.experimental, "initialize_tpu_system", lambda resolver: topology)
    monkeypatch.setattr(hardware, "profiler_report", lambda address: "TPU type: TPU v2")
    resolver.strategy = types.SimpleNamespace(num_replicas_in_sync=8)
    monkeypatch.setattr(tf.distribute, "TPUStrategy", lambda resolver: resolver.strategy)
    return resolver


def test_a_tpu_that_is_what_was_asked_for(described_tpu, listening, capfd):
    connection = connect.connect(tpu_target.resolve("v2-8"))
    assert (connection.replicas, connection.hosts, connection.kind) == (8, 1, "tpu")
    assert connection.strategy is described_tpu.strategy
    assert connection.addresses == (listening,)
    assert "warning" not in capfd.readouterr().err


def test_a_generation_that_nobody_tells_is_warned_of(described_tpu, monkeypatch, capfd):
    monkeypatch.setattr(hardware, "profiler_report", lambda address: "")
    assert connect.connect(tpu_target.resolve("v3-8")).replicas == 8
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("warning")]
    assert line == "warning: no source tells the generation of 'my-tpu': v3 is not confirmed, 8 cores are"


def test_a_looked_up_host_that_does_not_answer_is_named_before_tensorflow_waits(described_tpu, closed, monkeypatch):
    both = tf.train.ClusterSpec({"worker": [*described_tpu.cluster_spec().job_tasks("worker"), closed]})
    described_tpu.cluster_spec = lambda: both
    monkeypatch.setattr(tf.config, "experimental_connect_to_cluster", lambda resolver: pytest.fail("waits for minutes"))
    with pytest.raises(UserError, match=f"the TPU at {closed} is not reachable"):
        connect.connect(tpu_target.resolve("v2-8"))


def test_local_is_checked_against_what_the_machine_says(described_tpu, monkeypatch, metadata_says):
    metadata_says({"accelerator-type": "v3-8"})
    monkeypatch.setattr(hardware, "pci_generation", lambda: "v2")
    here = tpu_target.Target(kind="tpu", address="local", slice=slices.local())
    monkeypatch.setattr(tpu_target, "resolve", lambda tpu, **_: here)
    with pytest.raises(UserError, match=r"asked for v3-8 .*, got v2, .*: another generation"):
        connect.connect(tpu_target.resolve("local"))


def test_an_older_generation_stops_the_run(described_tpu):
    with pytest.raises(UserError, match=r"asked for v3-8 .*16 GiB per core.*, got v2, .*8 GiB per core"):
        connect.connect(tpu_target.resolve("v3-8"))


def test_a_failure_to_initialise_is_explained(described_tpu, monkeypatch):
    def fail(resolver):
        raise tf.errors.UnavailableError(None, None, "failed to connect to all addresses")

    monkeypatch.setattr(tf.tpu.experimental, "initialize_tpu_system", fail)
    with pytest.raises(UserError, match="the TPU 'my-tpu' is not reachable"):
        connect.connect(tpu_target.resolve("v2-8"))
