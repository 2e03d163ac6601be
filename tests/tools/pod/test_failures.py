"""What gcloud says when it fails becomes one sentence that says what to do; its grammar is that of the real one."""

import os
import re
import shlex
import shutil
import subprocess

import pytest

from pipeline.devices import slices
from pipeline.errors import UserError, WorkFailedError
from tests.helpers.places import ROOT
from tools.pod import failures
from tools.pod.on_host import units
from tools.pod.request import Request

# Messages as gcloud 528 and the Cloud TPU API give them, shortened; the role or the command that the sentence names.
CREATE = "ERROR: (gcloud.compute.tpus.queued-resources.create)"
SSH = "ERROR: (gcloud.compute.tpus.tpu-vm.ssh)"
KNOWN = [
    (
        f"{CREATE} You do not currently have an active account selected.\n  $ gcloud auth login",
        UserError,
        "gcloud auth",
    ),
    (f"{CREATE} Error parsing [queued_resource].\nFailed to find attribute [project].", UserError, "--project=PROJECT"),
    (
        f"{CREATE} PERMISSION_DENIED: Cloud TPU API has not been used in project 1 before or it is disabled.",
        UserError,
        "gcloud services enable tpu.googleapis.com",
    ),
    (
        f"{CREATE} RESOURCE_EXHAUSTED: Quota limit 'TPUV3sPodPerProjectPerZoneForTPUAPI' has been exceeded. Limit: 0",
        UserError,
        "quota has no room for a v3-128 in europe-west4-a",
    ),
    (
        f"{CREATE} PERMISSION_DENIED: Permission 'tpu.nodes.create' denied on 'projects/p/locations/z/nodes/mine'",
        UserError,
        "roles/tpu.admin",
    ),
    (
        f"{CREATE} PERMISSION_DENIED: caller lacks iam.serviceAccounts.actAs on trainer@p.iam.gserviceaccount.com",
        UserError,
        "roles/iam.serviceAccountUser",
    ),
    (
        "403 POST: trainer@p.iam.gserviceaccount.com does not have storage.objects.create access",
        UserError,
        "roles/storage.objectAdmin",
    ),
    (f"{CREATE} INVALID_ARGUMENT: accelerator type v3-128 is not supported", UserError, "offered in europe-west4-a"),
    (f"{CREATE} NOT_FOUND: Location europe-west4-z is not found", UserError, "no zone of the Cloud TPU API"),
    (f"{SSH} unrecognized arguments: --command", UserError, "gcloud components update"),
    ("There is no more capacity in the zone 'europe-west4-a'", WorkFailedError, "has no room for a v3-128 now"),
    (
        f"me@203.0.113.7: Permission denied (publickey).\n{SSH} [/usr/bin/ssh] exited",
        WorkFailedError,
        "refuses the key",
    ),
    (f"{SSH} SSH Key is not present in the SSH agent.", WorkFailedError, "refuses the key"),
    ("ssh: connect to host 203.0.113.7 port 22: Connection timed out", WorkFailedError, "not reachable by ssh"),
    (f'{SSH} This TPU has terminal state "PREEMPTED", so it cannot be used', WorkFailedError, "was preempted"),
    (f'{SSH} This TPU has state "CREATING", so it cannot be currently', WorkFailedError, "not ready yet"),
    (f"{SSH} This TPU is going through a maintenance event", WorkFailedError, "maintenance event"),
    (f"{CREATE} NOT_FOUND: Resource 'projects/p/locations/z/nodes/mine' was not found", UserError, "create makes it"),
    (f"{CREATE} INTERNAL: something else", WorkFailedError, "gcloud: (gcloud.compute.tpus"),
]


@pytest.mark.parametrize(("text", "kind", "says"), KNOWN, ids=range(len(KNOWN)))
def test_a_known_failure_says_what_to_do(text, kind, says):
    error = failures.explain(text, Request(name="mine", piece=slices.find("pod-128"), zone="europe-west4-a"))
    assert type(error) is kind and says in str(error) and "\n" not in str(error)


@pytest.mark.parametrize(
    ("verb", "words", "text", "code", "says"),
    [
        ("create", "create", KNOWN[0][0], 2, "gcloud is not logged in"),
        ("create", "create", KNOWN[3][0], 2, "quota"),
        ("status", "describe", KNOWN[2][0], 2, "Cloud TPU API is off"),
        ("setup", "ssh", KNOWN[11][0], 1, "refuses the key"),
    ],
)
def test_every_verb_says_it_in_one_line(cloud, verb, words, text, code, says):
    if verb == "setup":
        cloud.pod("create")
    cloud.fails(words, text)
    done = cloud.pod(verb)
    assert done.returncode == code and says in done.stderr
    assert done.stderr.startswith(("error: ", "failed: ", "warning: ")) and "Traceback" not in done.stderr


def test_a_missing_gcloud_is_said(cloud):
    (cloud.bin / "gcloud").unlink()
    done = cloud.pod("create", env=cloud.environment() | {"PATH": str(cloud.bin)})
    assert done.returncode == 2 and "gcloud is not installed here; https://cloud.google.com/sdk" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("gcloud"), reason="gcloud is not installed: nothing to take the commands")
def test_the_real_gcloud_takes_the_printed_commands(run_module, tmp_path):
    """Without credentials it ends with 1 after it has parsed, and with 2 where it does not understand."""
    environment = os.environ | {"CLOUDSDK_CONFIG": str(tmp_path), "CLOUDSDK_CORE_PROJECT": "p"}
    every = ["--spot", "--labels=a=b", "--service_account=t@p.iam.gserviceaccount.com", "--network=n"]
    every += ["--subnetwork=s", "--valid_until_duration=6h"]
    asked = [
        *(("create", "pod-128", "europe-west4-a", every), ("create", "v2-8", "us-central1-b", ["--reserved"])),
        *(("create", "v4-32", "us-central2-b", []), ("create", "v5e-16", "us-west4-a", [])),
        *(("create", "v5p-16", "us-east5-a", []), ("create", "v6e-8", "europe-west4-a", [])),
        *((verb, "v3-8", "us-central1-a", []) for verb in ("status", "setup", "run", "logs", "restart", "delete")),
    ]
    commands = set()
    for verb, tpu, zone, flags in asked:
        place = ["--name=mine", f"--tpu={tpu}", f"--zone={zone}", "--project=p", "--print"]
        done = run_module("tools.pod", verb, *place, *flags)
        assert done.returncode == 0, done.stderr
        commands |= set(done.stdout.splitlines())
    page = (ROOT / "docs" / "pods.md").read_text()
    commands |= set(re.findall(r"^gcloud (?!config).*", page, re.MULTILINE))
    kinds = {}  # one of each form is enough: each takes a second
    for command in sorted(commands):
        words = shlex.split(command)
        if words[0] == "gcloud":
            form = tuple(word.partition("=")[0] for word in words if word.startswith("--"))
            kinds.setdefault((*words[1:5], form if words[4] == "create" else ()), words)
    assert len(kinds) >= 8
    for words in kinds.values():
        done = subprocess.run(
            words, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
        )
        assert done.returncode == 1 and "active account" in done.stderr, (words, done.stderr)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_systemd_understands_the_units(tmp_path):
    awkward = ["/bin/true", "--gin_param=a='b \"c\" $HOME 100% \\'"]
    for name, text in ((units.TRAIN, units.train(awkward, "10.0.0.2:8490")), (units.WORKER, units.worker(awkward))):
        path = tmp_path / name
        path.write_text(text.replace(str(units.HOME / "checkout"), "/tmp").replace(str(units.PYTHON), "/bin/true"))
        done = subprocess.run(["systemd-analyze", "verify", path], capture_output=True, text=True, check=False)
        assert done.returncode == 0 and not done.stderr, done.stderr
    assert "RestartForceExitStatus=75" in units.train(awkward, "")
