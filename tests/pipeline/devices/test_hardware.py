"""The machine that answered against the slice that was asked for, from recorded and described answers."""

import subprocess
import sys

import pytest

from pipeline.devices import hardware, metadata
from pipeline.devices.hardware import Observed, check, combine, generation_of
from pipeline.devices.slices import find
from pipeline.errors import UserError

# What the profiler service of Colab's and of a node's TPU answers.
PROFILER_V2 = """  Timestamp: 00:40:12
  TPU type: TPU v2
  Utilization of TPU Matrix Units (higher is better): 0.000%
"""
PROFILER_V3 = PROFILER_V2.replace("v2", "v3")


@pytest.mark.parametrize(
    ("text", "generation"),
    [
        ("v3-128", "v3"),
        ("v2-8", "v2"),
        ("v4-32", "v4"),
        ("v5litepod-16", "v5e"),
        ("v5e-4", "v5e"),
        ("v5p-8", "v5p"),
        ("v6e-256", "v6e"),
        (PROFILER_V2, "v2"),
        (PROFILER_V3, "v3"),
        ("TPU v4", "v4"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("", None),
        ("Timestamp: 00:40:12", None),
    ],
)
def test_generations_as_the_sources_write_them(text, generation):
    assert generation_of(text) == generation


def seen(cores, hosts, *claims):
    return combine(cores, hosts, [(f"source {i}", claim) for i, claim in enumerate(claims)])


def test_the_machine_that_was_asked_for_passes():
    check(find("v3-8"), seen(8, 1, "v3-8"))
    check(find("pod-128"), seen(128, 16, PROFILER_V3, "v3-128"))
    check(find("v4-32"), seen(16, 4, "v4-32"))
    check(find("v3-8"), seen(8, 1))  # no source knew: cores and hosts still agree


@pytest.mark.parametrize(
    ("name", "observed", "message"),
    [
        (
            "v3-8",
            seen(8, 1, PROFILER_V2),
            r"asked for v3-8 \(v3, 8 cores on 1 host, 16 GiB per core\), got v2, 8 cores on 1 host, 8 GiB per core: an",
        ),
        ("v3-8", seen(8, 1, "v3-8", PROFILER_V2), "got v2"),  # a variable may be stale; the chip is believed
        ("v3-128", seen(32, 4, "v3-32"), "got v3, 32 cores on 4 hosts, 16 GiB per core: fewer cores"),
        ("v3-8", seen(32, 4, "v3-32"), "more cores"),
        ("v3-32", seen(32, 2, "v3-32"), "fewer hosts"),
        ("v3-8", Observed(cores=8, hosts=1, generation="v3", hbm_gib_per_core=8), "got .* 8 GiB per core: less memory"),
    ],
)
def test_a_lesser_machine_stops_the_run(name, observed, message):
    with pytest.raises(UserError, match=message):
        check(find(name), observed)


def pci(bus, **files):
    folder = bus / f"0000:00:0{len(list(bus.iterdir()))}.0"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text + "\n")


@pytest.mark.parametrize(
    ("device", "subsystem", "generation"),
    [
        ("0x0027", "0x004e", "v2"),
        ("0x0027", "0x004f", "v3"),
        ("0x005e", "0x0000", "v4"),
        ("0x0063", "0x0000", "v5e"),
        ("0x0062", "0x0000", "v5p"),
        ("0x006f", "0x0000", "v6e"),
    ],
)
def test_chips_on_the_bus(tmp_path, device, subsystem, generation):
    pci(tmp_path, vendor="0x8086", device="0x1237")
    pci(tmp_path, vendor="0x1ae0", device="0x0042")  # Google's virtual network card
    pci(tmp_path, vendor="0x1ae0", device=device, subsystem_device=subsystem)
    assert hardware.pci_generation(str(tmp_path)) == generation


@pytest.mark.parametrize(
    ("device", "subsystem", "chips", "name"),
    [
        ("0x0063", "0x0000", 1, "v5e-1"),  # Colab's
        ("0x0063", "0x0000", 8, "v5e-8"),  # Kaggle's
        ("0x006f", "0x0000", 1, "v6e-1"),
        ("0x0027", "0x004f", 4, "v3-8"),
        ("0x005e", "0x0000", 4, "v4-8"),
    ],
)
def test_the_slice_that_a_machine_is(tmp_path, device, subsystem, chips, name):
    pci(tmp_path, vendor="0x1ae0", device=device, subsystem_device=subsystem)
    assert hardware.slice_here(chips, str(tmp_path)) == find(name).name == name


def test_a_machine_whose_bus_tells_nothing_is_what_its_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("TPU_ACCELERATOR_TYPE", "v5litepod-1")
    assert hardware.slice_here(1, str(tmp_path)) == "v5e-1"
    monkeypatch.setenv("TPU_ACCELERATOR_TYPE", "v99-1")
    with pytest.raises(UserError, match="unknown generation; expected one of v2, v3, "):
        hardware.slice_here(1, str(tmp_path))


def test_a_bus_without_chips(tmp_path):
    pci(tmp_path, vendor="0x8086", device="0x1237")
    assert hardware.pci_generation(str(tmp_path)) is None


class Topology:
    def __init__(self, hosts, cores_per_host):
        self.num_tasks, self.num_tpus_per_task = hosts, cores_per_host


class Client:
    def __init__(self, answer):
        self.answer = answer

    def _get_tpu_property(self, name):
        assert name == "acceleratorType"
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Resolver:
    def __init__(self, answer=None):
        self._cloud_tpu_client = Client(answer)

    def master(self):
        return "grpc://10.0.0.2:8470"


def test_a_tpu_vm_is_asked_in_three_ways(monkeypatch, metadata_says):
    monkeypatch.setenv("TPU_ACCELERATOR_TYPE", "v3-8")
    metadata_says({"accelerator-type": "v3-8"})
    monkeypatch.setattr(hardware, "pci_generation", lambda: "v2")
    observed = hardware.observe(Resolver(), Topology(1, 8), "local")
    assert observed == Observed(cores=8, hosts=1, generation="v2", hbm_gib_per_core=8, source="PCI bus")


def test_a_node_is_asked_through_the_api_and_its_profiler(monkeypatch):
    asked = []
    monkeypatch.setattr(hardware, "profiler_report", lambda address: asked.append(address) or PROFILER_V3)
    observed = hardware.observe(Resolver("v3-128"), Topology(16, 8), "my-tpu")
    assert (observed.generation, observed.cores, observed.hosts) == ("v3", 128, 16)
    assert asked == ["grpc://10.0.0.2:8470"]
    silent = hardware.observe(Resolver(PermissionError("403")), Topology(16, 8), "my-tpu")
    assert silent.source == "profiler"


def test_colab_is_asked_through_the_profiler(monkeypatch):
    monkeypatch.setattr(hardware, "profiler_report", lambda address: PROFILER_V2)
    assert hardware.observe(Resolver(), Topology(1, 8), "grpc://10.0.0.2:8470").generation == "v2"


PROFILER = """
import sys
from concurrent import futures
import grpc

text = sys.argv[1].encode()

class Monitor(grpc.GenericRpcHandler):
    def service(self, call):
        if call.method == "/tensorflow.ProfilerService/Monitor":  # MonitorResponse's first field is the text
            return grpc.unary_unary_rpc_method_handler(lambda *_: bytes([0x0A, len(text)]) + text)

server = grpc.server(futures.ThreadPoolExecutor(1), handlers=[Monitor()])
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
sys.stdin.read()
server.stop(0)
"""


def test_the_profiler_of_the_first_address_is_asked_at_its_own_port(monkeypatch):
    """TensorFlow's client against a service in another process, for it holds on to the interpreter while it waits."""
    command = [sys.executable, "-c", PROFILER, PROFILER_V3]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as service:
        monkeypatch.setattr(hardware, "PROFILER_PORT", int(service.stdout.readline()))
        assert hardware.profiler_report("grpc://127.0.0.1:8470,grpc://10.0.0.3:8470") == PROFILER_V3
        service.communicate()


def test_a_profiler_that_is_not_there_is_no_answer(monkeypatch, closed):
    monkeypatch.setattr(hardware, "PROFILER_PORT", int(closed.partition(":")[2]))
    assert hardware.profiler_report("127.0.0.1:8470") == ""


def test_tensorflows_client_still_has_what_the_api_is_asked_with():
    """Its failures count as no answer, so a renamed method would never be noticed."""
    from tensorflow.python.tpu.client import client

    class Node:  # of the API's Python client
        def projects(self):
            return self

        locations = nodes = projects

        def get(self, name):
            assert name == "projects/p/locations/z/nodes/my-tpu"
            return self

        def execute(self):
            return {"acceleratorType": "v3-128"}

    class Found:
        _cloud_tpu_client = client.Client("my-tpu", zone="z", project="p", service=Node())

    assert hardware.cloud_accelerator_type(Found()) == "v3-128"


def test_tensorflows_resolver_keeps_its_client_where_it_is_looked_for():
    import tensorflow as tf

    resolver = tf.distribute.cluster_resolver.TPUClusterResolver
    assert resolver("grpc://10.0.0.2:8470")._cloud_tpu_client.name() == "grpc://10.0.0.2:8470"


def test_a_missing_metadata_server_is_no_answer(monkeypatch):
    monkeypatch.delenv("GCE_METADATA_HOST", raising=False)
    monkeypatch.setenv("GCE_METADATA_IP", "127.0.0.1:9")
    assert metadata.attribute("accelerator-type") == ""


def test_the_metadata_server_names_the_generation(metadata_says, monkeypatch):
    monkeypatch.setattr(hardware, "pci_generation", lambda: None)
    metadata_says({"accelerator-type": "v5litepod-4"})
    observed = hardware.observe(Resolver(), Topology(1, 4), "local")
    assert (observed.generation, observed.source) == ("v5e", "metadata server")
    assert metadata.attribute("absent") == ""
