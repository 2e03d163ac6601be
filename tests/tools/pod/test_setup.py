"""setup: every host in parallel, once; one that fails is named, and done alone the next time."""

import subprocess

import pytest

from tests.helpers.places import ROOT
from tools.pod.on_host import checks

POD = {"tpu": "v3-32"}


@pytest.fixture
def slice_of_four(cloud):
    """Four hosts, there and bare."""
    cloud.slice(4, states=("ACTIVE",))
    assert cloud.pod("create", **POD).returncode == 0
    return cloud


def uploads(cloud):
    return sorted(word for words in cloud.ran() if words[3] == "scp" for word in words if word.startswith("--worker"))


def test_the_host_that_fails_is_named_and_the_only_one_to_be_done_again(slice_of_four):
    cloud = slice_of_four
    (cloud.home(2) / "no_network").touch()
    done = cloud.pod("setup", **POD)
    assert done.returncode == 1, done.stdout
    assert "host 2 | error: Failed to fetch" in done.stderr
    assert done.stderr.splitlines()[-1] == (
        "failed: host 2 of 4 failed; the other 3 are kept, and the same command does the rest"
    )
    assert "host 2: failed (exit code 1) after" in done.stdout and done.stdout.count(": installed in ") == 3
    assert "each has Python 3.11." in done.stdout and "tensorflow-tpu 2.20.0, libtpu 0.0.24" in done.stdout
    assert len(uploads(cloud)) == 4
    assert not (cloud.home(2) / "pod" / "stamp").exists()

    (cloud.home(2) / "no_network").unlink()
    done = cloud.pod("setup", **POD)
    assert done.returncode == 0, done.stderr
    assert uploads(cloud)[2:4] == ["--worker=2", "--worker=2"] and len(uploads(cloud)) == 5
    assert done.stdout.splitlines()[-1] == "mine: 4 of 4 hosts are set up"
    stamps = {(cloud.home(host) / "pod" / "stamp").read_text() for host in range(4)}
    head = subprocess.run(["git", "rev-parse", "HEAD^{tree}"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert stamps == {head.stdout}
    assert (cloud.home(0) / "pod" / "checkout" / "pipeline" / "train.py").exists()
    installed = (cloud.home(0) / "installed").read_text()
    assert "--requirement new/requirements-tpu.txt" in installed and "--no-deps tensorflow-text==2.20.1" in installed

    status = cloud.pod("status", **POD).stdout
    assert [line.split()[1] for line in status.splitlines()[-4:]] == [head.stdout[:8]] * 4


def test_a_host_that_is_not_reached_and_a_wheel_of_another_version_are_said(slice_of_four):
    cloud = slice_of_four
    (cloud.home(3) / "down").touch()
    metadata = cloud.folder / "wheels" / "libtpu-0.0.24.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("0.0.24", "0.0.40"))
    done = cloud.pod("setup", **POD)
    assert done.returncode == 1
    assert "hosts 0, 1, 2, 3 of 4 failed (host 3: the host is not reachable by ssh" in done.stderr
    for host in range(3):
        assert f"host {host} | failed: libtpu is 0.0.40; expected 0.0.24" in done.stderr


def test_a_bucket_is_tried_on_the_host(gcs):
    def told(bucket):
        return [fault for fault in checks.faults(bucket) if "gs://" in fault]

    assert not told("gs://corpus/folder")
    (wrong,) = told("gs://no-such-bucket/folder")
    assert "no-such-bucket" in wrong and "roles/storage.objectAdmin" in wrong


def test_the_versions_are_those_of_the_requirements():
    text = (ROOT / "requirements-tpu.txt").read_text()
    for name in checks.PACKAGES:
        assert f"{name}=={checks.expected()[name]}" in text


def test_a_clock_that_is_off_is_warned_of(cloud):
    cloud.slice(1, states=("ACTIVE",))
    cloud.pod("create")
    script = cloud.folder / "python.sh"
    late = "import json, time; print('pod: ' + json.dumps({'clock': time.time() - 3600}))"
    script.write_text(
        script.read_text().replace('*" check"*)', f'*" check"*) {cloud.python} -c "{late}"; exit;;\n  x)')
    )
    done = cloud.pod("setup")
    assert done.returncode == 0, done.stderr
    assert "warning: the clock of host 0 is -3600 s off this machine's" in done.stderr


def test_a_bucket_is_an_address_of_cloud_storage(cloud):
    done = cloud.pod("setup", "--bucket=bucket")
    assert done.returncode == 2 and "expected gs://BUCKET" in done.stderr
