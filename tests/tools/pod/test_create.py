"""create, status and delete against the make-believe cloud; --print runs nothing."""

import os
import pty
import re
import shlex
import signal
import subprocess

import pytest

from tests.helpers.places import ROOT

VERBS = ("create", "status", "setup", "run", "logs", "stop", "restart", "delete")


def test_print_prints_every_verbs_commands_and_runs_none(cloud):
    for verb in VERBS:
        done = cloud.pod(verb, "--print", tpu="pod-128")
        assert done.returncode == 0 and not done.stderr, done.stderr
        commands = [shlex.split(line) for line in done.stdout.splitlines()]
        assert commands and all(words[0] in ("gcloud", "git") for words in commands)
    assert not cloud.ran()


def test_create_waits_until_it_is_active_and_a_second_one_goes_on_waiting(cloud):
    cloud.slice(1, states=("WAITING_FOR_RESOURCES", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"))
    done = cloud.pod("create", "--spot", "--labels=team=gpt,run=a", "--service_account=t@p.iam.gserviceaccount.com")
    assert done.returncode == 0, done.stderr
    lines = [re.sub(r",? ?(after )?\d+ s$", "", line) for line in done.stdout.splitlines()]
    expected = ["asked for mine", "mine: WAITING_FOR_RESOURCES", "mine: PROVISIONING", "mine is ACTIVE"]
    assert lines == expected
    asked, *looks = cloud.ran()
    assert asked[3:6] == ["create", "mine", "--zone=europe-west4-a"] and "--spot" in asked
    assert {"--labels=team=gpt,run=a", "--service-account=t@p.iam.gserviceaccount.com"} < set(asked)
    assert [words[3] for words in looks] == ["describe"] * 4
    assert cloud.pod("create").stdout.startswith("mine was asked for before; waiting for it\n")


@pytest.mark.parametrize(
    ("state", "reason", "says"),
    [
        ("FAILED", "There is no more capacity in the zone", "has no room for a v3-8 now"),
        ("FAILED", "an internal error", "FAILED: an internal error; `delete` it"),
        ("SUSPENDED", "", "SUSPENDED; `delete` it, then ask again"),
    ],
)
def test_a_request_that_ends_says_why(cloud, state, reason, says):
    cloud.slice(1, states=("PROVISIONING", state), reason=reason)
    done = cloud.pod("create")
    assert done.returncode == 1 and done.stderr.startswith("failed: the request mine is")
    assert says in done.stderr and done.stderr.count("\n") == 1


def test_ctrl_c_leaves_the_request_and_says_so(cloud):
    cloud.slice(1, states=("WAITING_FOR_RESOURCES",))
    with subprocess.Popen(
        cloud.command("create"),
        cwd=ROOT,
        env=cloud.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "asked for mine\n"
        assert "WAITING" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, error = process.communicate()
    assert process.returncode == 130 and "the request mine stays in the queue" in error
    assert (cloud.folder / "requests" / "mine.json").exists()
    assert not any("delete" in words for words in cloud.ran())


def test_status_of_nothing_of_a_waiting_and_of_a_fresh_slice(cloud):
    missing = cloud.pod("status")
    assert missing.returncode == 2 and "no request called 'mine'" in missing.stderr
    cloud.slice(4, states=("PROVISIONING", "ACTIVE"))
    cloud.pod("create", tpu="v3-32")
    cloud.becomes("mine", "WAITING_FOR_RESOURCES")
    assert cloud.pod("status", tpu="v3-32").stdout == "mine  v3-32 in europe-west4-a: WAITING_FOR_RESOURCES\n"
    cloud.becomes("mine", "ACTIVE")
    (cloud.home(2) / "down").touch()
    done = cloud.pod("status", tpu="v3-32")
    _, tpu, heads, *rows = done.stdout.splitlines()
    assert tpu == "TPU READY, HEALTHY, 4 hosts" and heads.split() == [
        "host",
        "set",
        "up",
        "server",
        "run",
        "newest",
        "line",
    ]
    assert [row.split()[:4] for row in rows[:2]] == [["0", "no", "-", "-"], ["1", "no", "-", "-"]]
    assert rows[2].startswith("2     ?") and "does not answer" in rows[2]


def test_delete_asks_first_and_touches_the_slice_alone(cloud):
    cloud.pod("create")
    refused = cloud.pod("delete")
    assert refused.returncode == 2 and "expected --yes" in refused.stderr
    for answer, code in (("n\n", 2), ("y\n", 0)):
        here, there = pty.openpty()
        os.write(here, answer.encode())
        done = cloud.pod("delete", stdin=there)
        os.close(here), os.close(there)
        assert done.returncode == code, done.stderr
        assert (cloud.folder / "requests" / "mine.json").exists() == bool(code)
    deletes = [words for words in cloud.ran() if "delete" in words]
    assert len(deletes) == 1 and deletes[0][2] == "queued-resources" and "--force" in deletes[0]
    assert not any(word.startswith("gs://") or word == "storage" for words in cloud.ran() for word in words)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["crate"], "did you mean 'create'"),
        (["create", "mine"], "create takes no arguments, but 'mine' is given"),
        (["create", "--name=mine", "--zone=europe-west4-a"], "--tpu is missing"),
        (["create", "--tpu=v3-8", "--zone=europe-west4-a"], "--name is missing"),
        (["run", "--tpu=v3-8", "--name=a", "--zone=europe-west4-a", "--gin_file=gpt2.gin"], "gin_file"),
    ],
)
def test_a_wrong_command_line_is_one_line(refused, arguments, says):
    assert says in refused("tools.pod", *arguments)
