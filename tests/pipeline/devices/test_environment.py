"""What TensorFlow's TPU build finds in the environment, before it is imported."""

import subprocess
import sys

import pytest

from pipeline.devices import environment, slices
from pipeline.errors import UserError
from tests.helpers.places import ROOT

LIBTPU = "/lib/libtpu.so"
PJRT = {
    "PJRT_DEVICE": "TPU",
    "NEXT_PLUGGABLE_DEVICE_USE_C_API": "true",
    "TF_PLUGGABLE_DEVICE_LIBRARY_PATH": LIBTPU,
}
OUTSIDE = {"TPU_LOAD_LIBRARY": "0"}


@pytest.mark.parametrize(
    ("tpu", "address", "expected"),
    [
        ("v2-8", "local", {}),
        ("v3-8", "local", {}),
        ("v4-8", "local", {}),
        ("v5e-8", "local", PJRT),
        ("v5p-8", "local", PJRT),
        ("v6e-8", "local", PJRT),
        ("v3-128", "grpc://10.0.0.2:8470", OUTSIDE),
        ("v5e-16", "grpc://10.0.0.2:8470", OUTSIDE),
        ("v4-32", "my-tpu", OUTSIDE),
    ],
)
def test_each_generation_has_its_variables(tpu, address, expected):
    assert environment.variables(slices.find(tpu), address, LIBTPU) == expected


def test_no_slice_takes_what_aborts_together():
    for name in slices.names():
        for address in ("local", "grpc://10.0.0.2:8470"):
            assert set(environment.variables(slices.find(name), address, LIBTPU)) < set(environment.NAMES)
            assert not environment._aborts(environment.variables(slices.find(name), address, LIBTPU))


def test_what_the_user_has_set_stays_with_a_note(capsys):
    environ = {"PJRT_DEVICE": "CPU"}
    environment.apply(slices.find("v6e-8"), "local", environ, LIBTPU)
    assert environ == PJRT | {"PJRT_DEVICE": "CPU"}
    assert capsys.readouterr().err == "note: PJRT_DEVICE=CPU is kept; it would be TPU here\n"
    environ = dict(OUTSIDE)
    environment.apply(slices.find("v6e-8"), "local", environ, LIBTPU)
    assert environ == OUTSIDE, "what would abort beside it is left out"
    assert "TPU_LOAD_LIBRARY=0 is kept" in capsys.readouterr().err
    environ = PJRT | OUTSIDE
    with pytest.raises(UserError, match="abort TensorFlow together"):
        environment.apply(slices.find("v6e-8"), "local", environ, LIBTPU)
    environ = dict(OUTSIDE)
    environment.apply(slices.find("v3-128"), "grpc://10.0.0.2:8470", environ)
    assert environ == OUTSIDE and not capsys.readouterr().err


def test_a_missing_libtpu_is_said(monkeypatch):
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="libtpu is not installed"):
        environment.variables(slices.find("v5e-8"), "local")


# Accelerator types and host bounds as grpc_tpu_worker.py of tensorflow-tpu 2.20.0 lists them.
@pytest.mark.parametrize(
    ("tpu", "bounds"),
    [("v2-8", "1,1,1"), ("v3-8", "1,1,1"), ("v3-32", "2,2,1"), ("v3-128", "4,4,1"), ("v3-512", "8,8,1")],
)
def test_hosts_of_v2_and_v3_are_told_their_place(tpu, bounds):
    piece = slices.find(tpu)
    hosts = [f"10.0.0.{host}" for host in range(piece.hosts)]
    found = environment.worker_variables(piece, len(hosts) - 1, hosts)
    assert found == {
        "CLOUD_TPU_TASK_ID": str(len(hosts) - 1),
        "TPU_LOCK_DEVICE": "true",
        "TPU_MESH_CONTROLLER_ADDRESS": "10.0.0.0:8476",
        "TPU_MESH_CONTROLLER_PORT": "8476",
        "TPU_HOSTNAME_OVERRIDE": hosts[-1],
        "TPU_CHIPS_PER_HOST_BOUNDS": "2,2,1",
        "TPU_HOST_BOUNDS": bounds,
    }
    assert "TPU_HOST_BOUNDS" not in environment.worker_variables(slices.find("v4-16"), 0, hosts, LIBTPU)
    assert environment.worker_variables(slices.find("v6e-16"), 0, hosts, LIBTPU).items() > PJRT.items()


def test_they_are_set_before_tensorflow_is_imported():
    """Importing a stand-in for TensorFlow tells what it finds."""
    code = """
import os, sys, types
class Tells:
    def find_spec(self, name, path, target=None):
        if name == "tensorflow":
            print("TPU_LOAD_LIBRARY =", os.environ.get("TPU_LOAD_LIBRARY"))
            sys.exit(0)
sys.meta_path.insert(0, Tells())
from pipeline import cli
from pipeline.devices import tpu_target
cli.import_tensorflow(tpu_target.Target(kind="tpu", address="grpc://10.0.0.2:8470"))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "TPU_LOAD_LIBRARY = 0\n", done.stderr
