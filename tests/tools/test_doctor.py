"""Each check of the doctor finds its fault, and says what to do."""

import shutil
import tomllib

import pytest
from packaging.specifiers import SpecifierSet

from pipeline.devices import metadata, wheels
from pipeline.errors import pip_install
from pipeline.storage.gcs import Location
from tools import doctor


def levels(findings):
    return [finding.level for finding in findings]


def test_a_sound_machine(run_module):
    done = run_module("tools.doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("ok")][-1] == "step"
    assert not any(line.startswith("fault") for line in lines)


def test_a_fault_ends_with_1(run_module):
    """Without credentials, or without a network."""
    done = run_module("tools.doctor", "--bucket=gs://no-such-bucket-here/x")
    assert done.returncode == 1 and "fault    bucket     gs://no-such-bucket-here" in done.stdout


def test_the_pythons_are_those_of_the_project():
    allowed = SpecifierSet(tomllib.loads((doctor.ROOT / "pyproject.toml").read_text())["project"]["requires-python"])
    oldest, newest = doctor.PYTHONS
    for minor in range(6, 20):
        assert allowed.contains(f"3.{minor}") == (oldest <= (3, minor) <= newest), minor
    assert f"{oldest} <= sys.version_info[:2] <= {newest}" in (doctor.ROOT / "Makefile").read_text()


def test_another_python_is_warned_of(monkeypatch):
    monkeypatch.setattr(doctor.sys, "version_info", (3, 14, 0))
    assert levels(doctor.python()) == [doctor.WARNING]


def test_a_directory_that_cannot_be_written_to(tmp_path, as_nobody):
    for path in ("/proc/x", str(tmp_path / "x")):  # the first by nobody, whatever the rights say
        with as_nobody():
            (finding,) = doctor.disk(path)
        assert finding.level == doctor.FAULT and "cannot be written to" in finding.text and "--path" in finding.text
    (finding,) = doctor.disk("/proc/x")
    assert finding.level == doctor.FAULT


def test_versions_are_compared_with_the_pins(monkeypatch):
    real = wheels.installed
    monkeypatch.setattr(wheels, "installed", lambda name: {"keras": "2.0", "wandb": None}.get(name, real(name)))
    missing, other = doctor.packages()
    assert missing == (doctor.FAULT, f"missing: wandb; {pip_install('-r requirements.txt')}")
    assert other.level == doctor.WARNING and "keras 2.0 (tested: 3." in other.text


def test_a_tpu_vm_is_compared_with_its_own_pins(monkeypatch):
    here = doctor.pins(doctor.ROOT / "requirements-tpu.txt")
    monkeypatch.setattr(wheels, "installed", here.get)
    assert list(doctor.packages()) == [(doctor.OK, f"all {len(here)} have their pinned version")]
    monkeypatch.setattr(wheels, "installed", (here | {"wandb": None, "tensorboard": "2.21.0"}).get)
    missing, other = doctor.packages()
    assert missing == (doctor.FAULT, f"missing: wandb; {pip_install('-r requirements-tpu.txt')}")
    assert "tensorboard 2.21.0 (tested: 2.20.0)" in other.text


def test_a_tpu_vm_gets_all_that_users_run():
    usual, on_tpu = (doctor.pins(doctor.ROOT / file) for file in ("requirements.txt", "requirements-tpu.txt"))
    assert usual.keys() - on_tpu.keys() == {"tensorflow", "tensorflow-text"}
    only_there = {"tensorflow-tpu", "libtpu", "jax", "jaxlib", "google-api-python-client", "oauth2client"}
    assert on_tpu.keys() - usual.keys() == only_there
    assert {name for name in usual.keys() & on_tpu.keys() if usual[name] != on_tpu[name]} == {"tensorboard"}
    assert on_tpu["tensorboard"].split(".")[:2] == on_tpu["tensorflow-tpu"].split(".")[:2]


def test_wheels_that_abort(monkeypatch):
    """They are a fault; the step, which would end the doctor with them, is not tried."""
    versions = {"tensorflow-tpu": "2.20.0", "libtpu": "0.0.52"}
    monkeypatch.setattr(wheels, "installed", versions.get)
    monkeypatch.setattr(doctor.cli, "import_tensorflow", lambda: pytest.fail("the process would be dead"))
    (finding,) = doctor.wheels_together()
    assert finding.level == doctor.FAULT and "pip install libtpu==0.0.24" in finding.text
    assert list(doctor.one_step()) == [
        (doctor.WARNING, "not tried: TensorFlow would abort, as the line on wheels says")
    ]


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ("fpu avx avx2 fma", [doctor.OK]),
        ("fpu avx", [doctor.WARNING, doctor.WARNING]),
        ("fpu", [doctor.FAULT, doctor.WARNING, doctor.WARNING]),
    ],
)
def test_processors(tmp_path, features, expected):
    (tmp_path / "cpuinfo").write_text(f"model name : x\nflags\t\t: {features}\n")
    assert levels(doctor.processor(str(tmp_path / "cpuinfo"))) == expected
    assert levels(doctor.processor(str(tmp_path / "none"))) == [doctor.WARNING]


@pytest.mark.parametrize(("kib", "expected"), [(16_000_000, doctor.OK), (1_000_000, doctor.WARNING)])
def test_memory(tmp_path, kib, expected):
    (tmp_path / "meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable:   {kib} kB\n")
    assert levels(doctor.memory(str(tmp_path / "meminfo"))) == [expected]


def test_a_disk_that_is_nearly_full(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 10**12 - 10**9, 10**9))
    (finding,) = doctor.disk(str(tmp_path / "not" / "yet"))
    assert finding == (doctor.WARNING, f"1.0 GB free in {tmp_path}; shards and checkpoints take 20")


IOWA = Location("us-central1", "region", ("us-central1",))


@pytest.mark.parametrize(
    ("location", "zone", "expected", "message"),
    [
        (IOWA, "us-central1-a", doctor.OK, "like the TPU's zone"),
        (Location("us", "multi-region", ()), "us-central1-a", doctor.WARNING, "in the multi-region us, the TPU in us-"),
        (IOWA, "europe-west4-b", doctor.WARNING, "egress and time; expected a bucket in europe-west4"),
        (IOWA, "", doctor.OK, "--zone"),
        (None, "us-central1-a", doctor.OK, "storage.buckets.get"),
    ],
)
def test_regions(location, zone, expected, message):
    finding = doctor.region(location, zone)
    assert finding.level == expected and message in finding.text


def test_a_bucket_that_is_there_and_one_that_is_not(gcs, monkeypatch):
    monkeypatch.setattr(metadata, "instance", lambda path: "")
    monkeypatch.setattr(doctor, "TIMEOUT_SECONDS", 2)
    assert levels(doctor.bucket("gs://corpus/runs", "us-central1-a"))[0] in (doctor.OK, doctor.WARNING)
    (finding,) = doctor.bucket("gs://absent/runs", None)
    assert finding.level == doctor.FAULT and "there is no bucket gs://absent" in finding.text


def test_a_login(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert "wandb login" in next(doctor.wandb_login()).text
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert "~/.netrc" in next(doctor.wandb_login()).text
    monkeypatch.setenv("WANDB_API_KEY", "x")
    assert "WANDB_API_KEY" in next(doctor.wandb_login()).text


def test_a_step_that_does_not_learn(monkeypatch):
    monkeypatch.setattr(doctor, "_train_tiny", lambda: ([4.1, 4.1], 1.0))
    assert next(doctor.one_step()).level == doctor.FAULT
    monkeypatch.setattr(doctor, "_train_tiny", lambda: 1 / 0)
    assert "ZeroDivisionError" in next(doctor.one_step()).text


def test_a_step_beside_the_tpu_wheel_is_not_compiled_for_the_cpu(monkeypatch):
    """Its XLA knows no such platform ("could not find registered transfer manager for platform Host")."""
    import tensorflow as tf

    compiled, function = [], tf.function
    monkeypatch.setattr(tf, "function", lambda *f, **how: compiled.append(how["jit_compile"]) or function(*f, **how))
    for version in (None, "2.20.0"):
        monkeypatch.setattr(wheels, "installed", {"tensorflow-tpu": version}.get)
        doctor._train_tiny(steps=1)
    assert compiled == [True, False]


def test_mistakes_are_one_sentence(refused):
    assert "expected gs://BUCKET" in refused("tools.doctor", "--bucket=corpus")
