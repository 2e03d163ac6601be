"""The sharder gives the bytes of a ten-line slow one, whatever the workers, the limits and the interruptions."""

import hashlib
import json
import random
import shutil

import numpy as np
import pytest
import tensorflow as tf

from pipeline.data.format import manifest as manifests
from pipeline.data.format import records
from pipeline.data.format.tokenizer import load
from pipeline.errors import UserError
from tests.helpers.hostile import NAMES
from tools import verify

LARGE: dict[str, int] = {}  # the real limits
WORDS = ["the", "cat", "'s", "naïve", "", "café", "\n\n\t", "1234", "…", "漢字", "😀", "<|endoftext|>", "don't", "="]


@pytest.fixture(scope="module")
def small(small_tokenizer):
    return load(small_tokenizer)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """60 documents: tiny, ordinary, one longer than a piece, a few that are dropped."""
    folder = tmp_path_factory.mktemp("source")
    dice = random.Random(1)
    for number in range(60):
        length = 4_000 if number == 31 else dice.choice([1, 5, 60, 300])
        text = " ".join(dice.choice(WORDS) for _ in range(length)) + "x"
        (folder / f"{number % 7}").mkdir(exist_ok=True)
        (folder / f"{number % 7}" / f"{number}.txt").write_text(text)
    (folder / "blank.txt").write_text(" \n")
    (folder / "nul.txt").write_bytes(b"a\0b")
    (folder / "latin.txt").write_bytes("café".encode("latin-1"))
    return folder


def documents_of(folder):
    documents = []
    for path in sorted(folder.rglob("*.txt"), key=lambda path: path.relative_to(folder).as_posix()):
        if path.name not in ("blank.txt", "nul.txt", "latin.txt"):
            documents.append((path.relative_to(folder).as_posix(), path.read_text()))
    return documents


def key_of(identity, seed):
    """The salted hash of an id, in plain arithmetic."""
    name, salt = (
        int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest()[:8], "little")
        for text in (identity, str(seed))
    )
    key = name ^ salt
    for multiplier in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        key = (key ^ key >> 33) * multiplier % (1 << 64)
    return key ^ key >> 33


def slow_sharder(documents, small, directory, part, shards, context, overlap=1):
    """Ten lines that say what the bytes are; TensorFlow frames the records."""
    stream = [token for _, text in documents for token in [*small.encode(text), small.end_of_text]]
    starts = range(0, len(stream) - context, context + 1 - overlap)
    rows = [np.array(stream[start : start + context + 1], "<u2").tobytes() for start in starts]
    for s, block in enumerate(np.array_split(np.arange(len(rows)), shards)):
        with tf.io.TFRecordWriter(str(directory / f"{part}-{s:05d}-of-{shards:05d}.tfrecord")) as writer:
            for row in block:
                feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[rows[row]]))
                features = tf.train.Features(feature={"tokens": feature})
                writer.write(tf.train.Example(features=features).SerializeToString())
    return stream, stream[len(rows) * context :]


def test_the_real_vocabulary_and_the_real_limits(tmp_path, source, shard):
    small, large = tmp_path / "small", tmp_path / "large"
    manifest = shard(source, large, tokenizer="gpt2", limits=LARGE)
    assert manifest.tokenizer.end_of_text == 50_256
    slow_sharder(sorted_by_hash(source, 0), load("gpt2"), make(small), "train", 3, 16)
    for file in small.iterdir():
        assert file.read_bytes() == (large / file.name).read_bytes()


def make(directory):
    directory.mkdir()
    return directory


def sorted_by_hash(source, seed):
    return sorted(documents_of(source), key=lambda document: key_of(document[0], seed))


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("order", ["hash", "source"])
def test_a_slow_sharder_gives_the_same_bytes(tmp_path, source, small, shard, digests, order, seed):
    documents = sorted_by_hash(source, seed) if order == "hash" else documents_of(source)
    stream, tail = slow_sharder(documents, small, make(tmp_path / "slow"), "train", 3, 16)
    manifest = shard(source, tmp_path / "fast", order=order, seed=seed)
    fast = digests(tmp_path / "fast")
    assert {name: fast[name] for name in fast if name.endswith(".tfrecord")} == digests(tmp_path / "slow")
    part = manifest.parts["train"]
    assert (part.tokens, list(part.tail)) == (len(stream), tail)
    assert part.tokens == part.records * 16 + len(part.tail)
    assert part.dropped == {"NUL": 1, "empty": 1, "undecodable": 1}
    assert part.utf8_bytes == sum(len(text.encode()) for _, text in documents)
    assert part.words == sum(len(text.encode().split()) for _, text in documents)
    assert part.documents == len(documents)


def test_bytes_do_not_depend_on_workers_limits_or_place(tmp_path, source, shard, digests):
    expected = None
    for name, workers, limits in (("one", 1, None), ("two", 2, LARGE), ("seven", 7, None)):
        shard(source, tmp_path / name, workers=workers, limits=limits)
        expected = expected or digests(tmp_path / name)
        assert digests(tmp_path / name) == expected
    (tmp_path / "copy").symlink_to(source)
    shard(tmp_path / "copy", tmp_path / "moved", workers=2)
    assert digests(tmp_path / "moved") == expected


def test_another_seed_gives_other_bytes_and_the_same_tokens(tmp_path, source, shard):
    first, second = (shard(source, tmp_path / str(seed), seed=seed) for seed in (0, 1))
    assert first.parts["train"].shards[0].crc32c != second.parts["train"].shards[0].crc32c
    assert first.parts["train"].tokens == second.parts["train"].tokens
    assert first.corpus.fingerprint == second.corpus.fingerprint


def test_the_split_is_disjoint_complete_and_independent_of_the_order(tmp_path, source, small, shard):
    def texts(directory, part):
        manifest = manifests.load(str(directory))
        described, stream = manifest.parts[part], []
        for file in described.shards:
            rows = records.decode((directory / file.file).read_bytes(), 16)
            stream += rows[:, :16].reshape(-1).tolist()
        text = small.decode([*stream, *described.tail])
        return [piece for piece in text.replace("<|endoftext|>", "\0").split("\0") if piece]

    shard(source, tmp_path / "a", validation_fraction=0.3)
    shard(source, tmp_path / "b", validation_fraction=0.3, order="source")
    everything = [text.replace("<|endoftext|>", "\0") for _, text in documents_of(source)]
    pieces = sorted(piece for text in everything for piece in text.split("\0") if piece)
    for part in ("train", "validation"):
        assert sorted(texts(tmp_path / "a", part)) == sorted(texts(tmp_path / "b", part))
    assert sorted(texts(tmp_path / "a", "train") + texts(tmp_path / "a", "validation")) == pieces
    held_out = manifests.load(str(tmp_path / "a")).parts["validation"].documents
    assert 5 < held_out < 35


def test_texts_in_both_parts_are_noted(tmp_path, shard):
    (tmp_path / "source").mkdir()
    for number in range(40):
        (tmp_path / "source" / f"{number}.txt").write_text("the very same text " * 5)
    manifest = shard(tmp_path / "source", tmp_path / "out", validation_fraction=0.5)
    assert manifest.corpus.notes == ("1 of 1 texts of validation are in the train part too",)


def test_shards_are_balanced_contiguous_and_committed_whole(tmp_path, source, shard):
    manifest = shard(source, tmp_path / "out", shards=7)
    sizes = [file.records for file in manifest.parts["train"].shards]
    assert max(sizes) - min(sizes) <= 1 and sum(sizes) == manifest.parts["train"].records
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {file.file for file in manifest.parts["train"].shards} | {"manifest.json", "tokenizer.json"}
    import google_crc32c

    for file in manifest.parts["train"].shards:
        data = (tmp_path / "out" / file.file).read_bytes()
        assert (len(data), f"{google_crc32c.value(data):08x}") == (file.bytes, file.crc32c)


def test_lines_become_padded_records(tmp_path, small, shard):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a.txt").write_text("one line\n\n" + "long " * 40 + "\r\nlast")
    manifest = shard(tmp_path / "source", tmp_path / "out", packing="lines", shards=1)
    part = manifest.parts["train"]
    rows = records.decode((tmp_path / "out" / part.shards[0].file).read_bytes(), 16)
    expected = []
    for line in ("one line", "long " * 40, "last"):
        ids = [*small.encode(line), small.end_of_text]
        expected.append((ids + [small.end_of_text] * 17)[:17])
    np.testing.assert_array_equal(rows, expected)
    assert (part.records, part.tokens, part.tail, manifest.record.packing) == (3, 51, (), "lines")
    one, long, last = (len(small.encode(line)) + 1 for line in ("one line", "long " * 40, "last"))
    assert (part.truncated_tokens, part.padding_tokens) == (long - 17, 34 - one - last)
    assert records.padding_weights(rows, small.end_of_text).sum() == (one - 1) + 16 + (last - 1)


def test_lines_of_many_documents_do_not_depend_on_limits(tmp_path, source, shard, digests):
    shard(source, tmp_path / "a", packing="lines", workers=1)
    shard(source, tmp_path / "b", packing="lines", workers=2, limits=LARGE)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_repeating_says_so_and_writes_nothing(tmp_path, source, shard, digests):
    first = shard(source, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert shard(source, tmp_path / "out") == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before


def test_work_left_beside_a_finished_data_set_is_cleared_away(tmp_path, source, shard, small_tokenizer):
    """A kill may come between the manifest and the end."""
    with pytest.raises(UserError):
        shard(source, tmp_path / "out", shards=90_000)
    shard(source, tmp_path / "out")
    plan = json.loads((tmp_path / "out" / "manifest.json").read_text())
    listing = plan["corpus"]["listing"]
    (tmp_path / "out" / ".unfinished").mkdir()
    expected = plan["settings"] | {"listing": listing, "format_version": 1}
    (tmp_path / "out" / ".unfinished" / "plan.json").write_text(json.dumps(expected))
    shard(source, tmp_path / "out")
    assert not (tmp_path / "out" / ".unfinished").exists()


def test_a_folder_for_unfinished_work_keeps_what_else_is_in_it(tmp_path, source, shard):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    shard(source, tmp_path / "out", work_dir=str(tmp_path / "mine"))
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("name", NAMES)
def test_an_output_and_a_work_folder_may_have_any_name(tmp_path, shard, small_tokenizer, digests, name):
    (tmp_path / "a.txt").write_text("the cat and the dog\n" * 200)
    tokenizer = tmp_path / (name + ".json")
    shutil.copy(small_tokenizer, tokenizer)
    source, output = tmp_path / "a.txt", tmp_path / name / "out"
    manifest = shard(source, output, work_dir=str(tmp_path / name), tokenizer=str(tokenizer))
    assert shard(source, output, tokenizer=str(tokenizer)) == manifest
    assert not list(verify.check_totals(manifest))
    assert [*verify.check_shard(str(tmp_path / name / "out"), manifest, manifest.parts["train"].shards[0])] == []
    assert [path.name for path in (tmp_path / name).iterdir()] == ["out"]
    assert len(digests(tmp_path / name / "out")) == 5, "shards, the manifest and the tokenizer"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": 5}, "already holds a data set of test, with seed 0, but this command says 5"),
        ({"shards": 4}, "with shards 3, but this command says 4"),
        ({"minimum_characters": 3}, "with minimum_characters 0, but this command says 3"),
    ],
)
def test_another_data_set_in_the_output_is_refused(tmp_path, source, shard, digests, settings, message):
    shard(source, tmp_path / "out")
    before = digests(tmp_path / "out")
    with pytest.raises(UserError, match=message):
        shard(source, tmp_path / "out", **settings)
    assert digests(tmp_path / "out") == before


def test_another_source_for_a_finished_output_is_refused(tmp_path, source, shard):
    shard(source, tmp_path / "out")
    with pytest.raises(UserError, match="with listing"):
        shard(source / "0", tmp_path / "out")


def test_strange_files_in_the_output_are_refused(tmp_path, source, shard):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match=r"holds files, such as 'thesis.tex', but no data set"):
        shard(source, tmp_path)


def test_a_lost_shard_is_not_called_finished(tmp_path, source, shard):
    manifest = shard(source, tmp_path / "out")
    (tmp_path / "out" / manifest.parts["train"].shards[1].file).unlink()
    with pytest.raises(UserError, match=r"train-00001-of-00003.tfrecord is missing"):
        shard(source, tmp_path / "out")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"shards": 90_000},
            "shard.shards = 90000 is more than the train part's .* records of 16 tokens: take at most",
        ),
        ({"context": 60_000, "shards": 1}, "do not fill one record of 60001"),
        ({"minimum_characters": 10**6, "limits": LARGE}, "the source holds no document: 63 were dropped"),
        ({"validation_fraction": None}, "its name states no part"),
    ],
)
def test_what_cannot_become_a_data_set_leaves_nothing_behind(tmp_path, source, shard, settings, message):
    with pytest.raises(UserError, match=message):
        shard(source, tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_unfinished_work_of_another_data_set_is_refused(tmp_path, source, shard):
    (tmp_path / "out" / ".unfinished").mkdir(parents=True)
    (tmp_path / "out" / ".unfinished" / "plan.json").write_text(json.dumps({"corpus": "jsonl"}))
    with pytest.raises(UserError, match="holds the unfinished work of another data set, with corpus 'jsonl'"):
        shard(source, tmp_path / "out")


def test_a_shard_of_other_bytes_is_never_overwritten(tmp_path, source, shard):
    """A journal that was lost must not turn into a mixture of two data sets."""
    (tmp_path / "out" / ".unfinished").mkdir(parents=True)
    (tmp_path / "out" / "train-00001-of-00003.tfrecord").write_bytes(b"other")
    with pytest.raises(UserError, match="exists and holds other bytes"):
        shard(source, tmp_path / "out")
    assert (tmp_path / "out" / "train-00001-of-00003.tfrecord").read_bytes() == b"other"
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_the_engine_is_checked_against_the_oracle_in_every_unit(tmp_path, source, shard, sharding_process):
    with pytest.raises(UserError, match=r"disagree on a text that begins"):
        sharding_process.submit(shard_with_a_wrong_oracle, str(source), str(tmp_path / "out")).result(timeout=100)
    assert not (tmp_path / "out").exists()


def shard_with_a_wrong_oracle(source, output):
    from pipeline.data.format import fidelity, tokenizer
    from pipeline.data.format.settings import ShardConfig
    from pipeline.data.sharding.sharder import shard

    right, at_the_start = tokenizer.Tokenizer.encode, fidelity.check_engines
    fidelity.check_engines = lambda tokenizer: None
    tokenizer.Tokenizer.encode = lambda self, text: [0, *right(self, text)[1:]]
    try:
        shard(ShardConfig(corpus="text", name="t", shards=1, context=16, validation_fraction=0.0), source, output, 2)
    finally:
        tokenizer.Tokenizer.encode, fidelity.check_engines = right, at_the_start


def full_disk(source, output, tokenizer, stage):
    """Shards on a disk that is full, at one stage; runs in the sharding process."""
    import errno
    import shutil

    from pipeline.data.format.settings import ShardConfig
    from pipeline.data.sharding import encode_unit, sharder, stages

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    owner, name, fake = {
        "before": (shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 100, 0)),
        "tokenizing": (encode_unit.RunWriter, "finish", full),
        "writing": (stages, "write_shard", full),
    }[stage]
    original = getattr(owner, name)
    setattr(owner, name, fake)
    try:
        config = ShardConfig(
            corpus="text", name="t", tokenizer=tokenizer, shards=2, context=16, validation_fraction=0.0
        )
        sharder.shard(config, source, output, 2)
    finally:
        setattr(owner, name, original)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (
            "before",
            r"no space: about [1-9]\S* (MB|bytes) are needed in .*, 0 bytes are free; --work_dir takes another",
        ),
        ("tokenizing", "no space left in .*: free some and repeat the command; finished work is kept"),
        ("writing", "no space left in .*: free some and repeat the command; finished work is kept"),
    ],
)
def test_a_full_disk_is_one_line_and_commits_nothing(
    tmp_path, source, shard, digests, small_tokenizer, sharding_process, stage, message
):
    output = str(tmp_path / "out")
    with pytest.raises(UserError, match=message):
        sharding_process.submit(full_disk, str(source), output, small_tokenizer, stage).result(timeout=100)
    assert not list(tmp_path.glob("out/*.tfrecord")) and not list(tmp_path.glob("out/*.json"))
    assert not list(tmp_path.rglob(".partial-*"))
    shard(source, output, limits=LARGE, name="t", shards=2)
    shard(source, tmp_path / "whole", name="t", shards=2)
    assert digests(output) == digests(tmp_path / "whole")


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:99] + bytes([raw[99] ^ 1]) + raw[100:], lambda raw: raw[:-9], None]
)
def test_a_unit_that_a_power_cut_left_broken_is_done_again(
    tmp_path, source, shard, digests, small_tokenizer, sharding_process, damage
):
    output = tmp_path / "out"
    with pytest.raises(UserError, match="no space"):
        sharding_process.submit(full_disk, str(source), str(output), small_tokenizer, "writing").result(timeout=100)
    units = list((output / ".unfinished").glob("unit-*.run"))
    assert units
    for unit in units:
        unit.write_bytes(damage(unit.read_bytes()) if damage else b"")
    shard(source, output, limits=LARGE, name="t", shards=2)
    shard(source, tmp_path / "whole", name="t", shards=2)
    assert digests(output) == digests(tmp_path / "whole")
