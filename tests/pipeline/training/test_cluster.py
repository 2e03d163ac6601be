"""The host loop on a cluster: real TensorFlow servers as a slice's hosts, data and run in an emulated bucket.

The devices are CPUs, under a mirrored strategy in place of a TPU's; the session, its loop and its input pipelines are
the real ones.
"""

import dataclasses
import json
import os
import re
import signal

import pytest

from pipeline.data.format import manifest as manifests
from pipeline.data.format.tokenizer import train as train_tokenizer
from tests.helpers import cluster
from tests.helpers.cluster_run import COMMIT, WRITE
from tests.helpers.shards import CONTEXT, write_data

SHARDS, STEPS = 32, 12
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
EVERYTHING = train_settings(steps=STEPS, global_batch=4, evaluate_every=3, sample_prompt="the cat")


@pytest.fixture
def bucket(gcs, tmp_path):
    """The emulator, with shards of a train part and of a validation part."""
    tokenizer = train_tokenizer(["the cat sat on the mat and the dog sat on the log"] * 20, 265, "tiny")
    data = write_data(tmp_path, shards=SHARDS, count=SHARDS * 40, below=tokenizer.vocabulary_size)
    first = dataclasses.replace(data.part.shards[0], file="validation-00000-of-00001.tfrecord")
    gcs.put(f"data/{first.file}", (tmp_path / data.part.shards[0].file).read_bytes())
    data.manifest.parts["validation"] = dataclasses.replace(
        data.part, records=first.records, shards=(first,), tail=(), tokens=first.records * CONTEXT + 1
    )
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
    records = [json.loads(line) for line in bucket.objects()[f"{run}/metrics.jsonl"].decode().splitlines()]
    return {record["step"]: record["loss"] for record in records}


def committed(bucket, run):
    folders = [name.split("/")[2] for name in bucket.objects() if re.match(f"{run}/checkpoints/.*/commit.json", name)]
    return max((int(folder.removeprefix("step-")) for folder in folders), default=0)


def files_read(bucket, host):
    """Returns the train shards that a host has asked the bucket for."""
    asked = [seen for seen in bucket.requests if seen.headers.get("authorization") == f"Bearer host-{host}"]
    return {seen.path.rpartition("/")[2] for seen in asked if "train-" in seen.path}


@pytest.mark.slow
@pytest.mark.parametrize(("hosts", "devices"), [(2, 2), (4, 1), (16, 1)])
def test_the_losses_are_those_of_virtual_devices_and_each_host_reads_its_own_rows(
    bucket, python, tmp_path, hosts, devices
):
    with cluster.Cluster(tmp_path, python, bucket.environment, hosts=hosts, devices=devices) as servers:
        done = servers.train(*FLAGS, *TRAINED, "--run_dir=gs://corpus/run")
    assert done.returncode == 0, done.stdout
    read = [files_read(bucket, host) for host in range(hosts)]
    assert all(len(files) == SHARDS // hosts for files in read) and len(set().union(*read)) == SHARDS
    assert not any(list((tmp_path / f"host-{host}").iterdir()) for host in range(hosts)), "nothing is left on a host"
    alone = [*FLAGS, *TRAINED, f"--tpu=virtual-{hosts * devices}"]
    done = cluster.train(python, bucket.environment, "pipeline.train", *alone, "--run_dir=gs://corpus/alone")
    assert done.returncode == 0, done.stdout
    assert losses(bucket, "run") == losses(bucket, "alone") and len(losses(bucket, "run")) == 4


# Each blow falls in a run that goes on where the one before ended.
BLOWS = [
    ("the first step", signal.SIGKILL),
    ("a loop of steps", signal.SIGKILL),
    ("a checkpoint", signal.SIGKILL),
    (WRITE, signal.SIGKILL),
    (COMMIT, signal.SIGKILL),
    ("restoring the newest checkpoint", signal.SIGKILL),
    ("an evaluation", signal.SIGKILL),
    ("a sample", signal.SIGKILL),
    ("the first step", signal.SIGSTOP),
    ("a loop of steps", signal.SIGSTOP),
    (WRITE, signal.SIGSTOP),
    ("restoring the newest checkpoint", signal.SIGSTOP),
]


@pytest.mark.slow
def test_a_host_that_is_lost_in_any_phase_ends_the_run_with_75_and_it_goes_on_to_the_same_losses(
    bucket, python, tmp_path
):
    flags = [*FLAGS, *EVERYTHING]
    before = 0
    with cluster.Cluster(tmp_path, python, bucket.environment, hosts=2, devices=1) as servers:
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
    done = cluster.train(
        python, bucket.environment, "pipeline.train", *flags, "--tpu=virtual-2", "--run_dir=gs://corpus/unbroken"
    )
    assert done.returncode == 0, done.stdout
    assert losses(bucket, "run") == losses(bucket, "unbroken") and len(losses(bucket, "run")) == STEPS
