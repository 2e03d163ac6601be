"""Slices: rules and files agree with Google's tables and with libtpu; mistakes are answered in one sentence."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest

from pipeline.devices import slice_rules, slices, tpu_target
from pipeline.devices.tpu_specs import GENERATIONS
from pipeline.errors import UserError
from tests.helpers.places import ROOT


def test_every_slice_agrees_with_its_generation():
    for found in map(slices.find, slices.names()):
        assert found.hbm_gib_per_core == found.specs.hbm_gib, found
        assert found.cores % found.hosts == 0, found
        assert found.cores == found.chips * found.specs.cores_per_chip, found
        assert found.specs.usable_hbm_gib < 1.01 * found.hbm_gib_per_core, found


@pytest.mark.parametrize("change", ["generation", "user"])
def test_memory_is_changed_in_one_place(change, tmp_path, monkeypatch):
    """In the table of generations, or in a user's own file; no other file has it."""
    (tmp_path / "slices").mkdir()
    text = "include 'slices/v3-64.gin'\nslice.name = 'mine'\n"
    if change == "generation":
        row = dataclasses.replace(GENERATIONS["v3"], hbm_gib=15, usable_hbm_gib=14)
        monkeypatch.setitem(GENERATIONS, "v3", row)
    else:
        text += "slice.hbm_gib_per_core = 15\n"
    (tmp_path / "slices" / "mine.gin").write_text(text)
    monkeypatch.setattr(slices, "FOLDER", tmp_path / "slices")
    assert slices.find("mine") == dataclasses.replace(slices.by_rule("v3-64"), name="mine", hbm_gib_per_core=15)
    assert slices.find("v3-64").hbm_gib_per_core == (15 if change == "generation" else 16)


@pytest.mark.parametrize(
    ("name", "topology", "replicas", "hosts"),
    [
        ("v2-32", "4x4", 32, 4),
        ("v2-512", "16x16", 512, 64),
        ("v3-64", "4x8", 64, 8),
        ("v3-2048", "32x32", 2048, 256),
        ("v4-8", "2x2x1", 4, 1),
        ("v4-256", "4x4x8", 128, 32),
        ("v4-4096", "8x16x16", 2048, 512),
        ("v5e-1", "1x1", 1, 1),
        ("v5e-4", "2x2", 4, 1),
        ("v5e-8", "2x4", 8, 1),
        ("v5litepod-32", "4x8", 32, 8),
        ("v5e-128", "8x16", 128, 32),
        ("v6e-1", "1x1", 1, 1),
        ("v6e-32", "4x8", 32, 8),
        # the table of https://cloud.google.com/tpu/docs/v5p, whose cores are two to a chip
        ("v5p-8", "2x2x1", 4, 1),
        ("v5p-16", "2x2x2", 8, 2),
        ("v5p-64", "2x4x4", 32, 8),
        ("v5p-128", "4x4x4", 64, 16),
        ("v5p-256", "4x4x8", 128, 32),
        ("v5p-512", "4x8x8", 256, 64),
        ("v5p-1024", "8x8x8", 512, 128),
        ("v5p-2048", "8x8x16", 1024, 256),
        ("v5p-4096", "8x16x16", 2048, 512),
        ("v5p-8192", "16x16x16", 4096, 1024),
        ("v5p-12288", "16x16x24", 6144, 1536),
    ],
)
def test_slices_of_googles_tables(name, topology, replicas, hosts):
    found = slices.find(name)
    assert (found.topology, found.cores, found.hosts) == (topology, replicas, hosts)


def test_the_page_lists_what_there_is():
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8").replace("\n", " ")
    assert [known for known in slice_rules.ranges() if known not in page] == []


def test_a_file_of_the_users_own_comes_before_the_rules(tmp_path, monkeypatch):
    (tmp_path / "slices").mkdir()
    text = "include 'slices/v3-128.gin'\nslice.name = 'v3-64'\nslice.address = 'my-tpu'\n"
    (tmp_path / "slices" / "v3-64.gin").write_text(text)
    monkeypatch.setattr(slices, "FOLDER", tmp_path / "slices")
    assert (slices.find("v3-64").cores, slices.find("v3-64").address) == (128, "my-tpu")


def test_the_pod_of_the_study():
    pod = slices.find("pod-128")
    assert (pod.generation, pod.topology, pod.cores, pod.hosts, pod.chips) == ("v3", "8x8", 128, 16, 64)
    assert pod.specs.peak_tflops * 2 == 123
    assert pod.specs.hbm_gbps * 2 == 900


def asked_of_libtpu(code, names, **figures):
    """Runs code in a process that may hold the compiler, over (topology, options, figures) of these slices."""
    pytest.importorskip("libtpu")
    from pipeline.preflight import libtpu_process, tpu_compiler

    wanted = []
    for name in names:
        piece = slices.find(name)
        options = {"chips_per_host_bounds": tpu_compiler._chips_per_host(piece)}
        if piece.generation in tpu_compiler.MEGACORE:
            options["chip_config_name"] = "megacore"
        of_slice = {name: figure(piece) for name, figure in figures.items()}
        wanted.append((tpu_compiler.topology_name(piece), options, of_slice))
    environment = {**os.environ, **libtpu_process.ENVIRONMENT, "TPU_ACCELERATOR_TYPE": "v3-8", "XLA_FLAGS": ""}
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(wanted)], env=environment, capture_output=True, text=True, check=False
    )
    assert "all agree" in done.stdout, done.stderr[-2000:]


def test_libtpu_knows_every_topology_and_its_devices_and_hosts():
    """The compiler itself is asked, in one process: a few seconds for all of them."""
    code = """
import collections, json, sys
from jax.experimental import topologies
for name, options, wanted in json.loads(sys.argv[1]):
    devices = topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices
    cores_by_host = collections.Counter(device.process_index for device in devices)
    chips = {tuple(device.coords) for device in devices if device.process_index == 0}
    found = {"cores": len(devices), "hosts": len(cores_by_host), "cores_per_host": sorted(set(cores_by_host.values()))}
    found["chips_per_host"] = len(chips)
    assert found == wanted, (name, found, wanted)
print("all agree")
"""
    asked_of_libtpu(
        code,
        slices.names(),
        cores=lambda piece: piece.cores,
        hosts=lambda piece: piece.hosts,
        cores_per_host=lambda piece: [piece.cores // piece.hosts],
        chips_per_host=lambda piece: piece.chips // piece.hosts,
    )


def test_the_clock_is_the_compilers():
    """A large product takes the compiler's cycles at the generation's peak and a little more, never less."""
    code = """
import json, re, sys
import jax, jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding
for name, options, wanted in json.loads(sys.argv[1]):
    device = topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices[0]
    x = jax.ShapeDtypeStruct((8192, 8192), jnp.bfloat16, sharding=SingleDeviceSharding(device))
    text = jax.jit(jnp.matmul).lower(x, x).compile().as_text()
    cycles = sum(map(int, re.findall(r'"estimated_cycles":"([0-9]+)"', text)))
    share = 2 * 8192**3 / cycles / wanted["flops_per_cycle"]
    assert 0.65 < share <= 1, (name, share)
print("all agree")
"""
    names = ("v2-8", "v3-8", "v4-8", "v5e-4", "v5p-8", "v6e-4")
    asked_of_libtpu(code, names, flops_per_cycle=lambda piece: piece.specs.flops_per_cycle)
    assert 0.9 < slices.find("v3-8").specs.clock_ghz < 0.95


def test_googles_name_for_v5e():
    assert slices.find("v5litepod-16") == slices.find("v5e-16")


def test_an_address_may_follow_the_name():
    assert slices.find("pod-128@grpc://10.0.0.2:8470").address == "grpc://10.0.0.2:8470"
    assert tpu_target.resolve("pod-128@my-tpu").replicas == 128


@pytest.mark.parametrize(
    ("tpu", "replicas", "hosts"), [(None, 1, 1), ("virtual-8", 8, 1), ("pod-128", 128, 16), ("v4-32", 16, 4)]
)
def test_what_is_resolved_knows_the_batch_arithmetic(tpu, replicas, hosts, monkeypatch):
    monkeypatch.setattr(tpu_target, "_gpus", lambda: 0)
    found = tpu_target.resolve(tpu)
    assert (found.replicas, found.hosts) == (replicas, hosts)


def test_a_tpu_vm_says_what_it_is(monkeypatch, metadata_says):
    metadata_says({"accelerator-type": "v5litepod-4"})
    planned = tpu_target.resolve("local")
    assert (planned.replicas, planned.slice.name, planned.slice.address) == (4, "v5e-4", "local")
    monkeypatch.setenv("TPU_ACCELERATOR_TYPE", "v3-8")  # libtpu too believes its environment first
    assert tpu_target.resolve("local").replicas == 8


@pytest.mark.parametrize("name", ["local", "v3-128@local"])
def test_a_host_of_several_is_not_the_slice(name, monkeypatch, metadata_says):
    metadata_says({"accelerator-type": "v3-128"})
    with pytest.raises(UserError, match=r"v3-128 has 16 hosts, and 'local' reaches .* one; .*--tpu=v3-128@NAME"):
        tpu_target.resolve(name)


def test_the_slices_that_grants_give_are_there():
    names = ["v2-8", "v3-8", "v3-32", "v3-128", "pod-128", "v3-512", "v4-8", "v4-16", "v4-32", "v4-64", "v4-128"]
    names += [f"{kind}-{chips}" for kind in ("v5e", "v5litepod", "v6e") for chips in (1, 4, 8, 16, 32, 64, 128, 256)]
    assert all(slices.is_known(name) for name in names)


@pytest.mark.parametrize(
    ("tpu", "message"),
    [
        ("pod-129", r"no slice is called 'pod-129' \(did you mean 'pod-128'\?\)"),
        ("../v3-8", "no slice is called '../v3-8'"),
        ("v3-100", r"no slice is called 'v3-100' \(did you mean 'v3-64' or 'v3-128'\?\)"),
        ("v5e-3", r"no slice is called 'v5e-3' \(did you mean 'v5e-1' or 'v5e-4'\?\)"),
        ("v5litepod-3", r"no slice is called 'v5litepod-3' \(did you mean 'v5e-1' or 'v5e-4'\?\)"),
        ("v4-12", r"no slice is called 'v4-12' \(did you mean 'v4-8' or 'v4-16'\?\); known: pod-128, v2-8 to v2-512, "),
        ("v3-9999", r"no slice is called 'v3-9999' \(did you mean 'v3-2048'\?\)"),
        ("v3-0128", r"no slice is called 'v3-0128' \(did you mean 'v3-128'\?\)"),
        ("v3-" + 5000 * "9", "no slice is called 'v3-9999"),
        ("v7-8", r"no slice is called 'v7-8' \(did you mean 'v6e-8'\?\)"),
        ("v5-512", r"no slice is called 'v5-512' \(did you mean 'v5e-256' or 'v5p-512'\?\)"),
        ("v3-8@", "--tpu=v3-8@: no address follows the @; expected v3-8@ADDRESS, or v3-8 alone"),
        ("grpc://10.0.0.2:8470", r"known only once connected; name the slice too: --tpu=v3-8@grpc://10.0.0.2:8470"),
        ("local", "known only once connected; name the slice too: --tpu=v3-8@local"),
        ("my-tpu", r"known: .*v6e-256; if it is a Cloud TPU's name, name its slice too: --tpu=v3-8@my-tpu"),
        ("virtual-0", "expected 1 to 64 virtual CPU devices"),
        ("virtual-1000", "expected 1 to 64 virtual CPU devices"),
        ("virtual-" + 5000 * "9", "expected 1 to 64 virtual CPU devices"),
    ],
)
def test_what_no_name_can_tell(tpu, message, metadata_says):
    metadata_says({})
    with pytest.raises(UserError, match=message):
        tpu_target.resolve(tpu).check_size()


def test_a_machine_that_is_no_known_slice(metadata_says):
    metadata_says({"accelerator-type": "v5litepod-2"})
    assert slices.local() is None
    reason = r"this machine is a 'v5litepod-2', which is no slice \(did you mean 'v5e-1' or 'v5e-4'\?\); name the"
    with pytest.raises(UserError, match=reason):
        tpu_target.resolve("local").check_size()


def test_nobody_is_asked_to_name_a_slice_twice():
    with pytest.raises(UserError) as told:
        tpu_target.resolve("v3-9@my-tpu").check_size()
    assert "no slice is called 'v3-9'" in str(told.value) and "name its slice" not in str(told.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slice.name = 'x'", "no value for slice.generation"),
        ("slice.colour = 'red'", "bad.gin:1: slice has no parameter 'colour'"),
        ("include 'slices/v3-8.gin'\nslice.name = @x", "bad.gin:2: slice.name: expected a literal or a %macro, got @x"),
        ("slice.name = ", "bad.gin"),
        ("\ufeffinclude 'slices/v3-8.gin'\nslice.cores = 4", "2x2 chips of v3 have 8 cores, not 4"),  # behind a mark
        ("slice.cores = [1", "bad.gin:1: .*expected name.parameter = value"),
        ("include 'slices/none.gin'", "bad.gin:1: no gin file 'slices/none.gin'"),
        (
            "include 'slices/v3-8.gin'\nslice.generation = 'v33'",
            r"slice.generation='v33' is not one of .*did you mean 'v3'",
        ),
        ("include 'slices/v3-8.gin'\nslice.cores = 4", "2x2 chips of v3 have 8 cores, not 4"),
        ("include 'slices/v3-8.gin'\nslice.hosts = 3", "hosts=3 does not divide cores=8"),
        ("include 'slices/v3-8.gin'\nslice.topology = 'big'", "slice.topology='big' must be chips along each edge"),
        ("include 'slices/v3-8.gin'\nslice.topology = '0x2'\nslice.cores = 0", "must be chips along each edge"),
        ("include 'slices/v3-8.gin'\nslice.hosts = 'one'", "bad.gin:2: slice.hosts = 'one': expected a whole number"),
        ("include 'slices/v3-8.gin'\nslice.generation = ['v3']", r"slice.generation = \['v3'\]: expected text"),
        ("include 'slices/v3-8.gin'\nslice.hbm_gib_per_core = 0", "hbm_gib_per_core=0 must be above 0"),
        ("include 'slices/v3-8.gin'\nslice.hbm_gib_per_core = 1e400", "= inf: expected a number that float32 holds"),
        ("include 'slices/v3-8.gin'\ntrain.microbatch = 8", "bad.gin:2: nothing is called 'train'; known: slice"),
    ],
)
def test_a_wrong_file_is_one_sentence(text, message, tmp_path, monkeypatch):
    folder = tmp_path / "slices"
    folder.mkdir()
    (folder / "bad.gin").write_text(text + "\n", encoding="utf-8")
    monkeypatch.setattr(slices, "FOLDER", folder)
    with pytest.raises(UserError, match=message):
        slices.find("bad")


def test_gpus_are_counted_without_a_framework(monkeypatch):
    monkeypatch.setattr(tpu_target.glob, "glob", lambda pattern: ["/dev/nvidia0", "/dev/nvidia1", "/dev/nvidiactl"])
    for visible, count in ((None, 2), ("", 0), ("-1", 0), ("1", 1), ("0,1", 2), ("0,1,2", 2)):
        if visible is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert tpu_target._gpus() == count
