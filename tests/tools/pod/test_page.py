"""The commands of docs/pods.md for tools.pod and gcloud are run on a make-believe host, from the grant to the end."""

import re
import shlex
import subprocess

import pytest

from pipeline.devices import slices
from tests.helpers.places import ROOT
from tools.pod import offers

PAGE = (ROOT / "docs" / "pods.md").read_text()
COMMANDS = [line for block in re.findall(r"^```\n(.*?)^```", PAGE, re.M | re.S) for line in block.splitlines() if line]
ROWS = re.findall(r"^\| (v\S+) \| (\S+) \| (\S+) \| (\d+) \| `POD=\"(.*)\"` \|$", PAGE, re.M)
OTHERS = ("make shards", "python -m tools.preflight", "python -m tools.report")  # proved by their own tests


@pytest.mark.parametrize(("grant", "zone", "image", "hosts", "flags"), ROWS, ids=[row[0] for row in ROWS])
def test_each_grant_has_its_line(run_module, grant, zone, image, hosts, flags):
    piece = slices.find(grant)
    assert f"--zone={zone}" in flags and piece.hosts == int(hosts)
    done = run_module("tools.pod", "create", *flags.split(), "--print")
    assert done.returncode == 0, done.stderr
    assert f"--accelerator-type={offers.accelerator_type(piece)} --runtime-version={image}" in done.stdout


def test_the_page_covers_the_usual_grants():
    assert [row[0] for row in ROWS] == ["v3-8", "v3-128", "v4-32", "v5e-16", "v6e-8"]
    verbs = {shlex.split(line)[3] for line in COMMANDS if line.startswith("python -m tools.pod ")}
    assert verbs == {"create", "setup", "status", "run", "logs", "stop", "restart", "delete"}


@pytest.mark.slow
def test_its_commands_lead_from_the_grant_to_the_end(cloud):
    cloud.slice(1, states=("WAITING_FOR_RESOURCES", "ACTIVE"))
    python = cloud.bin / "python"
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(str(cloud.python))} "$@"\n')
    python.chmod(0o755)
    flags = next(row[4] for row in ROWS if row[0] == "v3-8")
    environment = cloud.environment() | {"POD": flags}
    for line in COMMANDS:
        if line.startswith(OTHERS):
            continue
        if "tools.pod setup" in line:  # no bucket answers here; test_setup.py has one that does
            line = line.replace("--bucket=gs://BUCKET", "")
        done = subprocess.run(
            ["sh", "-c", line], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        if "--keep" in line:
            assert "the run ended with 0" in done.stdout
        if line.startswith("python -m tools.pod run") and "--keep" not in line:
            cloud.program()  # waits from now on, until it is stopped
        if " stop " in line:
            cloud.program(*[0] * 9)
    ran = [" ".join(words) for words in cloud.ran()]
    assert any(words.startswith("storage buckets create gs://BUCKET --location=europe-west4") for words in ran)
    assert not (cloud.folder / "requests" / "gpt2.json").exists()
