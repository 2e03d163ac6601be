"""A manifest comes back as it was written, and whatever does not fit is refused with both sides named."""

import dataclasses
import json

import pytest

from pipeline.data.format import manifest as manifests
from pipeline.errors import UserError

SHARD = manifests.Shard(file="train-00000-of-00001.tfrecord", records=3, bytes=3 * 75, crc32c="0badf00d")
MANIFEST = manifests.Manifest(
    corpus=manifests.Corpus(name="tiny", fingerprint="f", listing="l", seed=7, order="hash", notes=("a note",)),
    tokenizer=manifests.Tokenizer(name="gpt2", fingerprint="abc", vocabulary_size=50_257, end_of_text=50_256),
    record=manifests.Record(context=16, bytes=75),
    settings={"shards": 1},
    parts={
        "train": manifests.Part(
            documents=2,
            tokens=51,
            records=3,
            tail=(1, 2, 50_256),
            utf8_bytes=200,
            words=40,
            word_rule="whitespace",
            dropped={"empty": 1},
            shards=(SHARD,),
        )
    },
)


def write(directory, **changes):
    (directory / "manifest.json").write_text(dataclasses.replace(MANIFEST, **changes).dumps())
    return str(directory)


def test_round_trip(tmp_path):
    assert manifests.load(write(tmp_path)) == MANIFEST


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        ({"tokenizer_fingerprint": "xyz"}, "tokenizer fingerprint is abc .* xyz is expected"),
        ({"end_of_text": 0}, "end-of-text id is 50256 .* 0 is expected"),
        ({"vocabulary_size": 8192}, "vocabulary size is 50257 .* 8192 is expected"),
    ],
)
def test_check_names_both_sides(expected, message):
    MANIFEST.check(tokenizer_fingerprint="abc", end_of_text=50_256, vocabulary_size=50_257)
    with pytest.raises(UserError, match=message):
        MANIFEST.check(**expected)


def test_check_files_refuses_missing_and_cut_shards(tmp_path):
    with pytest.raises(UserError, match=r"train-00000-of-00001\.tfrecord is missing"):
        MANIFEST.check_files(str(tmp_path))
    (tmp_path / SHARD.file).write_bytes(bytes(SHARD.bytes - 1))
    with pytest.raises(UserError, match="has 224 bytes, but the manifest says 225"):
        MANIFEST.check_files(str(tmp_path))
    MANIFEST.check_files(str(tmp_path), "validation", "test")  # what is not read need not be there
    (tmp_path / SHARD.file).write_bytes(bytes(SHARD.bytes))
    MANIFEST.check_files(str(tmp_path))


def test_check_files_refuses_shards_that_may_not_be_read(tmp_path, as_nobody):
    (tmp_path / SHARD.file).write_bytes(bytes(SHARD.bytes))
    (tmp_path / SHARD.file).chmod(0o600)
    with as_nobody(), pytest.raises(UserError, match=r"train-\S+: cannot be read \(Permission denied\)"):
        MANIFEST.check_files(str(tmp_path), "train")


def test_no_manifest_is_no_data_set(tmp_path):
    with pytest.raises(UserError, match=r"holds no data set: there is no manifest.json in it; `make shards`"):
        manifests.load(str(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.update(format_version=2), "format version 2; this code reads 1"),
        (lambda data: data.pop("record"), "is not a manifest of this pipeline"),
        (lambda data: data["tokenizer"].update(vocabulary_size=70_000), "a vocabulary of 70000"),
        (lambda data: data["tokenizer"].update(end_of_text=50_257), "end-of-text id 50257 outside"),
        (lambda data: data["parts"]["train"].update(records=4), "4 records of train"),
        (lambda data: data["parts"]["train"]["shards"][0].update(bytes=1), "1 bytes in train-00000"),
        (lambda data: data["record"].update(surprise=1), "is not a manifest of this pipeline"),
    ],
)
def test_a_broken_manifest_is_refused(tmp_path, change, message):
    data = json.loads(MANIFEST.dumps())
    change(data)
    (tmp_path / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match=message):
        manifests.load(str(tmp_path))


def test_an_unknown_part_is_refused_with_those_there_are():
    with pytest.raises(UserError, match="no part 'test': it has train"):
        MANIFEST.part("test")


def test_the_tokenizer_beside_the_manifest_has_to_be_the_one_it_names(tmp_path):
    write(tmp_path)
    with pytest.raises(UserError, match=r"tokenizer.json is missing, though the manifest names tokenizer 'gpt2'"):
        manifests.read_tokenizer(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"has sha256 44136fa3.* the manifest says abc"):
        manifests.read_tokenizer(str(tmp_path))
