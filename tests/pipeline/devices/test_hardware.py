"""The machine that answered against the slice that was asked for, from recorded and described answers."""

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
            r"asked for v3-8 \(v3, 8 cores on 1 host, 16 GiB a core\), got v2, 8 cores on 1 host, 8 GiB a core: an",
        ),
        ("v3-8", seen(8, 1, "v3-8", PROFILER_V2), "got v2"),  # a variable may be stale; the chip is believed
        ("v3-128", seen(32, 4, "v3-32"), "got v3, 32 cores on 4 hosts, 16 GiB a core: fewer cores"),
        ("v3-8", seen(32, 4, "v3-32"), "more cores"),
        ("v3-32", seen(32, 2, "v3-32"), "fewer hosts"),
        ("v3-8", Observed(cores=8, hosts=1, generation="v3", hbm_gib_per_core=8), "got .* 8 GiB a core: less memory"),
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
