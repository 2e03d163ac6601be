"""The host loop on a cluster: real TensorFlow servers as a slice's hosts, data and run in an emulated bucket.

The devices are CPUs, under a mirrored strategy in place of a TPU's; the session, its loop and its input pipelines are
the real ones. Each run costs eight seconds of a core, so ``make test`` has two hosts and a few blows, and
``make test-cluster`` everything.
"""

import dataclasses
import json
import os
import re
import signal

import pytest

from pipeline.data.format import manifest as manifests
from pipeline.data.format import records
from pipeline.data.format.tokenizer import train as train_tokenizer
from tests.helpers import cluster
from tests.helpers.cluster_run import COMMIT, WRITE
from tests.helpers.shards import CONTEXT, write_data

EVERYTHING = bool(os.environ.get("TEST_CLUSTER"))
SHARDS, STEPS = 32, 12
ROUNDING = 1e-6
SHARD_RECORDS = 2048  # four blocks of what a host reads at once
FLAGS = (
    "--gin_file=quickstart.gin",
    *(f"--gin_param=ALGPT2.{name}" for name in ("layers=1", "heads=1", "width=8", "embedding=4", "context=16")),
    "--gin_param=train.optimizer=sgd",
    "--gin_param=SGD.learning_rate=0.5",
    "--gin_param=SGD.momentum=0.9",
    *(f"--gin_param=train.{name}" for name in ("microbatch=1", "warmup_steps=2", "wandb='off'")),
    *(f"--gin_param=train.{name}" for name in ("steps_per_loop=1", "checkpoint_every=1", "compute_dtype='float32'")),
    "--data=gs://corpus/data",
)


def train_settings(**settings):
    return [f"--gin_param=train.{name}={value!r}" for name, value in settings.items()]


TRAINED = train_settings(steps=4, global_batch=16, evaluate_every=0, sample_prompt="")
WHOLE = train_settings(steps=STEPS, global_batch=4, evaluate_every=3, sample_prompt="the cat" * EVERYTHING)


@pytest.fixture
def bucket(gcs, tmp_path):
    """The emulator, with shards of a train part and of a validation part."""
    tokenizer = train_tokenizer(["the cat sat on the mat and the dog sat on the log"] * 20, 265, "tiny")
    data = write_data(tmp_path, shards=SHARDS, count=SHARDS * SHARD_RECORDS, below=tokenizer.vocabulary_size)
    scored = (tmp_path / data.part.shards[0].file).read_bytes()[: 8 * records.record_bytes(CONTEXT)]
    shard = manifests.Shard(file="validation-00000-of-00001.tfrecord", records=8, bytes=len(scored), crc32c="")
    data.manifest.parts["validation"] = dataclasses.replace(
        data.part, records=8, shards=(shard,), tail=(), tokens=8 * CONTEXT + 1
    )
    gcs.put(f"data/{shard.file}", scored)
    described = manifests.Tokenizer(
        name="tiny",
        fingerprint=tokenizer.fingerprint,
        vocabulary_size=tokenizer.vocabulary_size,
        end_of_text=tokenizer.end_of_text,
    )
    manifest = dataclasses.replace(data.manifest, tokenizer=described)
    for shard in data.part.shards:
        gcs.put(f"data/{shard.file}", (tmp_path / shard.file).read_bytes())
    gcs.put(f"data/{manifests.TOKENIZER_FILE}", tokenizer.data)
    gcs.put(f"data/{manifests.FILE_NAME}", manifest.dumps().encode())
    return gcs


def losses(bucket, run):
    lines = bucket.objects()[f"{run}/metrics.jsonl"].decode().splitlines()
    return {record["step"]: record["loss"] for record in map(json.loads, lines)}


def committed(bucket, run):
    folders = [name.split("/")[2] for name in bucket.objects() if re.match(f"{run}/checkpoints/.*/commit.json", name)]
    return max((int(folder.removeprefix("step-")) for folder in folders), default=0)


def check_same_losses(bucket, run, other, steps):
    """Equal but for float32 rounding of the last digit: they differ by 1e-7 in some steps, and do not drift apart."""
    assert (
        losses(bucket, run) == pytest.approx(losses(bucket, other), rel=ROUNDING) and len(losses(bucket, run)) == steps
    )


def check_own_rows(bucket, hosts):
    """Each shard is one host's, in the first pass: those that a host asks for first; later it reads the next ahead."""
    read = []
    for host in range(hosts):
        asked = [seen.path for seen in bucket.requests if seen.headers.get("authorization") == f"Bearer host-{host}"]
        files = dict.fromkeys(path.rpartition("/")[2] for path in asked if "train-" in path)
        read += list(files)[: SHARDS // hosts]
    assert len(read) == len(set(read)) == SHARDS


@pytest.mark.slow
@pytest.mark.skipif(not EVERYTHING, reason="minutes of two cores: make test-cluster")
@pytest.mark.parametrize("hosts", [4, 16])
def test_the_losses_are_those_of_virtual_devices_and_each_host_reads_its_own_rows(bucket, python, tmp_path, hosts):
    with cluster.Cluster(tmp_path, python, bucket.environment, hosts=hosts) as servers:
        done = servers.train(*FLAGS, *TRAINED, "--run_dir=gs://corpus/run")
    assert done.returncode == 0, done.stdout
    check_own_rows(bucket, hosts)
    assert not any(list((tmp_path / f"host-{host}").iterdir()) for host in range(hosts)), "nothing is left on a host"
    alone = [*FLAGS, *TRAINED, f"--tpu=virtual-{hosts}"]
    done = cluster.train(python, bucket.environment, "pipeline.train", *alone, "--run_dir=gs://corpus/alone")
    assert done.returncode == 0, done.stdout
    check_same_losses(bucket, "run", "alone", 4)


# Each blow falls in a run that goes on where the one before ended.
BLOWS = [("a loop of steps", signal.SIGSTOP), (WRITE, signal.SIGKILL)]
if EVERYTHING:
    BLOWS += [
        ("restoring the newest checkpoint", signal.SIGKILL),
        ("the first step", signal.SIGKILL),
        ("a loop of steps", signal.SIGKILL),
        ("a checkpoint", signal.SIGKILL),
        (COMMIT, signal.SIGKILL),
        ("an evaluation", signal.SIGKILL),
        ("a sample", signal.SIGKILL),
        ("the first step", signal.SIGSTOP),
        (WRITE, signal.SIGSTOP),
        ("restoring the newest checkpoint", signal.SIGSTOP),
    ]


@pytest.mark.slow
def test_a_host_that_is_lost_in_any_phase_ends_the_run_with_75_and_it_goes_on_to_the_same_losses(
    bucket, python, tmp_path
):
    flags = [*FLAGS, *WHOLE]
    before = 0
    with cluster.Cluster(tmp_path, python, bucket.environment, hosts=2) as servers:
        for number, (phase, blow) in enumerate(BLOWS):
            host = number % 2
            done = servers.train(*flags, "--run_dir=gs://corpus/run", phase=phase, number=blow, host=host)
            what = f"{phase}, {blow.name} of host {host}: {done.stdout}"
            assert done.returncode == os.EX_TEMPFAIL and f"strikes in {phase}" in done.stdout, what
            assert "\nlost: " in done.stdout and "Traceback" not in done.stdout, what
            assert "the same command continues from the newest checkpoint" in done.stdout, what
            reached = committed(bucket, "run")
            assert reached >= before, what
            assert f"resumes at step {before}" in done.stdout or "restor" in phase or not before, what
            before = reached
            servers.end(host)
            servers.start()
        done = servers.train(*flags, "--run_dir=gs://corpus/run")
        assert done.returncode == 0 and f"resumes at step {before}" in done.stdout, done.stdout
        if EVERYTHING:
            assert servers.train(*flags, "--run_dir=gs://corpus/again").returncode == 0
            assert losses(bucket, "run") == losses(bucket, "again"), "to the last digit on the same devices"
    done = cluster.train(
        python, bucket.environment, "pipeline.train", *flags, "--tpu=virtual-2", "--run_dir=gs://corpus/unbroken"
    )
    assert done.returncode == 0, done.stdout
    check_own_rows(bucket, 2)
    check_same_losses(bucket, "run", "unbroken", STEPS)
