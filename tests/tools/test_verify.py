"""``tools.verify`` accepts what the sharder wrote and names the place of every kind of damage."""

import json
import shutil

import pytest

from tests.helpers.places import ROOT


@pytest.fixture(scope="module")
def data_set(tmp_path_factory):
    """A small finished data set: 64 tokens per record."""
    import subprocess
    import sys

    folder = tmp_path_factory.mktemp("verify")
    (folder / "a.txt").write_text("Some words that are tokenized, again and again.\n" * 600)
    command = [sys.executable, "-m", "pipeline.shard", "--gin_file=datasets/text.gin", f"--source={folder}/a.txt"]
    command += [f"--output={folder}/out", "--gin_param=shard.shards=3", "--gin_param=shard.context=64"]
    command += ["--gin_param=shard.validation_fraction=0.0"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder / "out"


@pytest.fixture
def copy(data_set, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(data_set, tmp_path / "copy")


def record_bytes(folder):
    return json.loads((folder / "manifest.json").read_text())["record"]["bytes"]


def test_a_sound_data_set(run_module, data_set):
    done = run_module("tools.verify", f"--data={data_set}")
    assert done.returncode == 0, done.stderr
    assert "3 shards" in done.stdout and "all as the manifest says" in done.stdout


def damage(folder, number, change):
    path = folder / f"train-{number:05d}-of-00003.tfrecord"
    data = bytearray(path.read_bytes())
    path.write_bytes(change(data))


def flip(place):
    def change(data):
        data[place] ^= 1
        return data

    return change


def with_id(record, size, token):
    """Puts another id into a record and repairs its checksum, so that only the vocabulary is violated."""

    def change(data):
        import numpy as np

        from pipeline.data.format import records

        rows = records.decode(bytes(data), 64).copy()
        rows[record, 5] = token
        return records.encode(rows.astype(np.uint16)).tobytes()

    return change


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        (lambda size: flip(5 * size + 1), ["framing: {file}: record 5, byte {place}", "crc32c: {file}"]),
        (lambda size: flip(5 * size + 40), ["checksum: {file}: record 5, byte {place}", "crc32c: {file}"]),
        (lambda size: with_id(5, size, 60_000), ["vocabulary: {file}: record 5, byte {place}", "crc32c: {file}"]),
        (lambda size: lambda data: data[:-7], ["size: {file}", "cut record: {file}: record ", "crc32c: {file}"]),
        (lambda size: lambda data: data + data[:size], ["size: {file}", "crc32c: {file}"]),
    ],
)
def test_damage_is_named_with_its_place(run_module, copy, change, messages):
    size = record_bytes(copy)
    damage(copy, 1, change(size))
    done = run_module("tools.verify", f"--data={copy}", "--workers=2")
    assert done.returncode == 1, done.stdout
    for message in messages:
        assert "fault: " + message.format(file="train-00001-of-00003.tfrecord", place=5 * size) in done.stderr
    assert "train-00000" not in done.stderr and "train-00002" not in done.stderr


def test_only_the_first_fault_of_a_kind_is_named(run_module, copy):
    size = record_bytes(copy)
    for number, record in ((2, 1), (1, 9), (1, 4)):
        damage(copy, number, flip(record * size + 40))
    done = run_module("tools.verify", f"--data={copy}")
    assert done.stderr.count("checksum: ") == 1 and "train-00001-of-00003.tfrecord: record 4," in done.stderr
    assert "4 faults of 2 kinds" in done.stderr


def test_a_missing_shard_is_a_fault_of_the_data_and_not_of_the_command(run_module, copy):
    (copy / "train-00002-of-00003.tfrecord").unlink()
    done = run_module("tools.verify", f"--data={copy}")
    assert done.returncode == 1 and "missing: train-00002-of-00003.tfrecord" in done.stderr


def test_totals_have_to_add_up(run_module, copy):
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["parts"]["train"]["tokens"] += 1
    (copy / "manifest.json").write_text(json.dumps(manifest))
    done = run_module("tools.verify", f"--data={copy}")
    assert done.returncode == 1 and "totals: train: records and tail hold" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--data is missing"),
        (["--data=nowhere"], "nowhere holds no data set"),
        (["--data=nowhere", "--workers=0"], "--workers=0"),
    ],
)
def test_bad_input(refused, arguments, message):
    assert message in refused("tools.verify", *arguments)


def test_another_tokenizer_beside_the_manifest_is_refused(refused, copy):
    (copy / "tokenizer.json").write_text("{}")
    assert "has sha256" in refused("tools.verify", f"--data={copy}")


@pytest.mark.slow
def test_training_on_damaged_records_ends_with_one_line_that_leads_here(small_data, run_flags, run_module, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(small_data, data)
    for shard in data.glob("*.tfrecord"):
        raw = bytearray(shard.read_bytes())
        for place in range(40, len(raw), 100):
            raw[place] ^= 1
        shard.write_bytes(raw)
    flags = [*run_flags, f"--data={data}", f"--run_dir={tmp_path / 'run'}", "--gin_param=train.steps=2"]
    done = run_module("pipeline.train", *flags)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("failed: the data set is damaged (") and "python -m tools.verify --data=" in line
