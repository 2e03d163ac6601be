"""Compares the actual machine with the requested slice, before the first step runs on a smaller one.

No single source knows everything. On a TPU VM the metadata server, the environment and the PCI bus name the generation;
for a TPU node the Cloud TPU API does; on Colab, and on any node, the TPU's profiler service says "TPU type: TPU v2".
Cores and hosts come from the topology that initialization returns, memory from the generation.
"""

import glob
import os
import pathlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.devices import metadata, slices
from pipeline.devices.slice_rules import RULES
from pipeline.devices.slices import Slice
from pipeline.devices.tpu_specs import GENERATIONS
from pipeline.errors import UserError

PCI_BUS = "/sys/bus/pci/devices"
GOOGLE_VENDOR = "0x1ae0"
# Device ids on the PCI bus, as JAX's hardware_utils lists them; v2 and v3 share one and differ in the subsystem's.
PCI_DEVICES = {"0x005e": "v4", "0x0062": "v5p", "0x0063": "v5e", "0x006f": "v6e"}
PCI_V2_OR_V3 = "0x0027"
PCI_SUBSYSTEMS = {"0x004e": "v2", "0x004f": "v3"}
NAMES = {"v5litepod": "v5e", "v5 lite": "v5e", "v5lite": "v5e", "v6 lite": "v6e", "v6lite": "v6e", "v5": "v5p"}
PROFILER_PORT = 8466


@dataclass(frozen=True, kw_only=True)
class Observed:
    """The actual machine; None where no source knew.

    Args:
        cores: Devices that the program sees.
        hosts: Machines.
        generation: A key of GENERATIONS, or any other name that a source gave.
        hbm_gib_per_core: Memory of a device of this generation, in GiB. No source states the machine's own, so it
            differs from the slice's only if the generation or the slice's file does.
        source: The source that named the generation.
    """

    cores: int
    hosts: int
    generation: str | None = None
    hbm_gib_per_core: float | None = None
    source: str = ""


def generation_of(text: str) -> str | None:
    """Returns the generation in an accelerator's name: "v3-128", "v5litepod-16", "TPU v5 lite", "TPU type: TPU v2"."""
    match = re.search(r"\b(v5litepod|v\d+ ?lite|v\d+[ep]?)\b", text.replace("-", " "), re.IGNORECASE)
    return NAMES.get(match[1].lower(), match[1].lower()) if match else None


def check(expected: Slice, observed: Observed) -> None:
    """Raises UserError, naming both sides, if the machine differs from the slice or has less memory."""
    got_hbm = observed.hbm_gib_per_core
    size = _size(expected.generation, expected.cores, expected.hosts, expected.hbm_gib_per_core)
    asked = f"asked for {expected.name} ({size})"
    got = f"got {_size(observed.generation or 'TPU', observed.cores, observed.hosts, got_hbm)}"
    if observed.generation is not None and observed.generation != expected.generation:
        raise UserError(f"{asked}, {got}: another generation")
    for what in ("cores", "hosts"):
        if (found := getattr(observed, what)) != (wanted := getattr(expected, what)):
            raise UserError(f"{asked}, {got}: {'fewer' if found < wanted else 'more'} {what}")
    if got_hbm is not None and got_hbm < 0.9 * expected.hbm_gib_per_core:
        raise UserError(f"{asked}, {got}: less memory")


def _size(generation: str, cores: int, hosts: int, hbm: float | None) -> str:
    memory = f", {hbm:g} GiB per core" if hbm else ""
    return f"{generation}, {cores} cores on {hosts} host{'s' if hosts > 1 else ''}{memory}"


def observe(resolver: Any, topology: Any, address: str) -> Observed:
    """Asks every source about the machine that the resolver connected to; takes its initialization's topology."""
    cores = int(topology.num_tasks * topology.num_tpus_per_task)
    return combine(cores, int(topology.num_tasks), _claims(resolver, address))


def combine(cores: int, hosts: int, claims: Iterable[tuple[str, str]]) -> Observed:
    """Returns the observation from (source, claim) pairs; if claims differ, the oldest generation counts.

    A machine must be rejected if any source says that it is less than the slice. An environment variable may be left
    over from another machine, but a chip never claims to be newer than it is.
    """
    named = [(generation, source) for source, claim in claims if (generation := generation_of(claim)) is not None]
    if not named:
        return Observed(cores=cores, hosts=hosts)
    order = list(GENERATIONS)
    generation, source = min(named, key=lambda pair: order.index(pair[0]) if pair[0] in order else len(order))
    hbm = GENERATIONS[generation].hbm_gib if generation in GENERATIONS else None
    return Observed(cores=cores, hosts=hosts, generation=generation, hbm_gib_per_core=hbm, source=source)


def _claims(resolver: Any, address: str) -> Iterator[tuple[str, str]]:
    if address == "local":
        yield "TPU_ACCELERATOR_TYPE", os.environ.get("TPU_ACCELERATOR_TYPE", "")
        yield "metadata server", metadata.attribute("accelerator-type")
        yield "PCI bus", pci_generation() or ""
    elif address.startswith("grpc://"):
        yield "profiler", profiler_report(address)
    else:
        yield "Cloud TPU API", cloud_accelerator_type(resolver)
        yield "profiler", profiler_report(resolver.master())


def pci_generation(bus: str = PCI_BUS) -> str | None:
    """Returns the generation of the chips on this machine's PCI bus, or None without known chips."""
    for vendor in sorted(glob.glob(f"{bus}/*/vendor")):
        folder = pathlib.Path(vendor).parent
        if _identifier(folder / "vendor") != GOOGLE_VENDOR:
            continue
        device = _identifier(folder / "device")
        if device == PCI_V2_OR_V3:
            return PCI_SUBSYSTEMS.get(_identifier(folder / "subsystem_device"))
        if device in PCI_DEVICES:
            return PCI_DEVICES[device]
    return None


def slice_here(chips: int, bus: str = PCI_BUS) -> str:
    """Returns the slice that this TPU VM with ``chips`` chips is: "v5e-1" or, for four chips, "v3-8".

    Raises:
        UserError: neither the PCI bus nor the accelerator's name tells the generation.
    """
    generation = pci_generation(bus) or generation_of(slices.accelerator_type())
    if generation is None or generation not in RULES:
        raise UserError(f"this machine has TPU chips of an unknown generation; expected one of {', '.join(RULES)}")
    return f"{generation}-{chips * RULES[generation].counted}"


def _identifier(path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip().lower()
    except OSError:
        return ""


def cloud_accelerator_type(resolver: Any) -> str:
    """Returns the acceleratorType of this TPU in the Cloud TPU API ("v3-8"), or an empty string."""
    try:  # the resolver has no public way to the API's answer
        return str(resolver._cloud_tpu_client._get_tpu_property("acceleratorType") or "")
    except Exception:  # the API's client raises whatever its transport raises; next, ask the profiler
        return ""


def profiler_report(address: str) -> str:
    """Returns the report of the TPU's profiler service ("TPU type: TPU v2 ..."), or an empty string.

    The only source for Colab's TPUs, which have an address but are unknown to the APIs of the user's project.
    """
    from tensorflow.profiler.experimental import client

    host = address.split(",")[0].split("://")[-1].rsplit(":", 1)[0]
    try:
        return client.monitor(f"grpc://{host}:{PROFILER_PORT}", duration_ms=100, level=2)
    except Exception:  # an old runtime has no profiler service; the topology is still compared
        return ""
