"""Where --tpu leads: every failure is one sentence and quick, before TensorFlow is imported."""

import contextlib
import socket
import subprocess
import sys
import time

import pytest

from pipeline.config import run_config
from pipeline.devices import heartbeat, tpu_target, wheels
from pipeline.errors import UserError


@pytest.fixture(autouse=True)
def _no_tpu(monkeypatch):
    monkeypatch.setattr(tpu_target, "tpu_attached", lambda: False)
    for variable in ("TPU_NAME", "COLAB_TPU_ADDR", "KUBE_GOOGLE_CLOUD_TPU_ENDPOINTS"):
        monkeypatch.delenv(variable, raising=False)


def pretend_installed(monkeypatch, **versions):
    monkeypatch.setattr(wheels, "installed", lambda package: versions.get(package.replace("-", "_")))


def checked(tpu):
    return tpu_target.check(tpu_target.resolve(tpu))


def test_here_and_virtual():
    assert checked(None).kind == "here"
    assert checked("") == checked(None)
    assert checked("virtual-8") == tpu_target.Target(kind="virtual", replicas=8)


@pytest.mark.parametrize(("tpu", "what"), [(None, "--tpu is missing"), ("virtual-8", "--tpu=virtual-8")])
def test_the_tpu_wheel_compiles_for_tpus_alone(monkeypatch, tpu, what):
    """Measured with tensorflow-tpu 2.20.0, whose XLA knows no platform Host."""
    pretend_installed(monkeypatch, tensorflow_tpu="2.20.0", libtpu="0.0.24")
    with pytest.raises(UserError, match=f"{what}: tensorflow-tpu has no XLA for this machine's CPU; expected a slice"):
        checked(tpu)


def test_a_slice_without_an_address_is_refused_at_once():
    start = time.monotonic()
    with pytest.raises(UserError, match="--tpu=pod-128: no TPU is attached to this machine and no address is known"):
        checked("pod-128")
    assert time.monotonic() - start < 1


def test_the_environment_names_an_address(monkeypatch, listening):
    monkeypatch.setenv("TPU_NAME", f"grpc://{listening}")
    found = checked("v3-8")
    assert (found.address, found.slice.name) == (f"grpc://{listening}", "v3-8")
    monkeypatch.delenv("TPU_NAME")
    monkeypatch.setenv("COLAB_TPU_ADDR", listening)
    assert checked("v2-8").address == f"grpc://{listening}"
    monkeypatch.delenv("COLAB_TPU_ADDR")
    monkeypatch.setenv("TPU_NAME", "local")  # as tutorials for TPU VMs have it
    with pytest.raises(UserError, match="v3-32 has 4 hosts, and 'local' reaches the chips of one"):
        checked("v3-32")


def test_an_address_behind_the_slice(listening):
    assert checked(f"pod-128@grpc://{listening}").slice.cores == 128


def test_a_tpu_vm(monkeypatch):
    monkeypatch.setattr(tpu_target, "tpu_attached", lambda: True)
    pretend_installed(monkeypatch, tensorflow_tpu="2.20.0", libtpu="0.0.24")
    assert checked("v3-8").address == "local"
    with pytest.raises(UserError, match="--tpu=pod-128: only one of its hosts is here and no address is known"):
        checked("pod-128")
    pretend_installed(monkeypatch, tensorflow="2.21.0")
    with pytest.raises(UserError, match=r"has no TPU support; \S*pip install -r requirements-tpu.txt"):
        checked("local")


def test_local_is_the_slice_that_the_plan_is_for(monkeypatch, metadata_says):
    monkeypatch.setattr(tpu_target, "tpu_attached", lambda: True)
    pretend_installed(monkeypatch, tensorflow_tpu="2.20.0", libtpu="0.0.24")
    metadata_says({})
    assert checked("local") == tpu_target.Target(kind="tpu", address="local")
    metadata_says({"accelerator-type": "v2-8"})
    found = checked("local")
    assert (found.address, found.slice) == ("local", tpu_target.resolve("local").slice)
    assert found.slice.name == "v2-8"
    metadata_says({"accelerator-type": "v4-32"})
    with pytest.raises(UserError, match="v4-32 has 4 hosts, and 'local' reaches the chips of one"):
        checked("local")


def test_nothing_listens(closed):
    with pytest.raises(UserError, match=f"the TPU at grpc://{closed} is not reachable"):
        checked(f"grpc://{closed}")


def test_a_host_that_hangs_is_not_waited_for(monkeypatch):
    """Its kernel takes the connection, and TensorFlow would wait for an answer."""
    monkeypatch.setattr(heartbeat, "responds", lambda host, ask=heartbeat.responds: ask(host, 0.5))
    with socket.create_server(("127.0.0.1", 0)) as hung:
        address = f"grpc://127.0.0.1:{hung.getsockname()[1]}"
        with pytest.raises(UserError, match=f"the TPU at {address} takes connections but does not answer"):
            checked(address)


@pytest.mark.parametrize("address", ["grpc://", "grpc://:8470", "grpc://host:port"])
def test_no_address_at_all(address):
    with pytest.raises(UserError, match="is not an address; expected grpc://HOST:PORT"):
        checked(address)


def test_local_without_a_tpu():
    with pytest.raises(UserError, match="this machine has no TPU chips"):
        checked("local")


def test_a_name_that_cannot_be_looked_up(monkeypatch, closed):
    monkeypatch.setenv("GCE_METADATA_HOST", closed)
    with pytest.raises(
        UserError, match=r"'pod-12' is not a slice \(did you mean 'pod-128'\?\).*no metadata server answers"
    ):
        checked("pod-12")


def test_an_environment_that_names_no_metadata_server(monkeypatch):
    monkeypatch.setenv("GCE_METADATA_HOST", "metadata:abc")
    with pytest.raises(UserError, match="no metadata server answers"):
        checked("v3-8@my-tpu")


@pytest.mark.parametrize(
    ("name", "attached", "sees"),
    [
        ("v3-8", True, True),
        ("v3-8@local", True, True),
        ("v3-8", False, False),
        ("v3-8@grpc://10.0.0.2:8470", True, False),
        ("v3-8@my-tpu", False, False),
        ("v3-32", True, False),
    ],
)
def test_only_a_tpu_vm_that_is_the_whole_slice_sees_its_own_files(monkeypatch, name, attached, sees):
    monkeypatch.setattr(tpu_target, "tpu_attached", lambda: attached)
    devices = tpu_target.resolve(name)
    run_config.check_visible(devices, data="gs://corpus/data")
    with contextlib.nullcontext() if sees else pytest.raises(UserError, match="--data=data/x: this machine's files c"):
        run_config.check_visible(devices, data="data/x")


def test_a_name_is_looked_up_with_packages_that_tensorflow_does_not_bring_along(monkeypatch, listening):
    monkeypatch.setenv("GCE_METADATA_HOST", listening)
    pretend_installed(monkeypatch, tensorflow="2.21.0", oauth2client="4.1.3")
    with pytest.raises(
        UserError, match=r"'my-tpu' cannot be looked up without google-api-python-client; \S*pip install g"
    ):
        checked("v3-128@my-tpu")
    pretend_installed(monkeypatch, google_api_python_client="2.202.0", oauth2client="4.1.3")
    found = checked("v3-128@my-tpu")
    assert (found.address, found.slice.name) == ("my-tpu", "v3-128")


def test_an_unknown_slice_before_an_address():
    with pytest.raises(UserError, match="no slice is called 'v3-9'"):
        checked("v3-9@grpc://10.0.0.2:8470")


def test_no_framework_is_imported():
    code = (
        "import sys, pipeline.devices.tpu_target, pipeline.devices.connect, pipeline.devices.hardware\n"
        "print([m for m in ('tensorflow', 'keras', 'jax') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
