"""The sharder's output folder: finished work is kept, what is foreign is refused,a failure leaves nothing."""

import json
import shutil

import pytest

from pipeline.data.sharding.work_folder import Journal
from pipeline.errors import UserError
from tests.helpers.hostile import NAMES
from tests.helpers.sharding import REAL_LIMITS
from tools import verify


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
        ({"minimum_characters": 10**6, "limits": REAL_LIMITS}, "the source holds no document: 63 were dropped"),
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
    from pipeline.data.sharding.sharder import Sharder

    right, at_the_start = tokenizer.Tokenizer.encode, fidelity.check_engines
    fidelity.check_engines = lambda tokenizer: None
    tokenizer.Tokenizer.encode = lambda self, text: [0, *right(self, text)[1:]]
    try:
        config = ShardConfig(corpus="text", name="t", shards=1, context=16, validation_fraction=0.0)
        Sharder(config, source, output, 2).shard()
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
        sharder.Sharder(config, source, output, 2).shard()
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
    shard(source, output, limits=REAL_LIMITS, name="t", shards=2)
    shard(source, tmp_path / "whole", name="t", shards=2)
    assert digests(output) == digests(tmp_path / "whole")


def test_a_worker_that_was_stopped_leaves_nothing_half_written(tmp_path):
    """Another one failed, so it was stopped while it wrote: files on this machine, folders on Beam."""
    journal = Journal(str(tmp_path / "work"), {"name": "t"})
    (tmp_path / "work" / ".partial-1").write_bytes(b"half")
    (tmp_path / "work" / ".partial-2").mkdir()
    (tmp_path / "work" / ".partial-2" / "half").write_bytes(b"half")
    journal.note("train-00000", {"records": 1})
    journal.close()
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["lock", "plan.json", "train-00000.json"]


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
    shard(source, output, limits=REAL_LIMITS, name="t", shards=2)
    shard(source, tmp_path / "whole", name="t", shards=2)
    assert digests(output) == digests(tmp_path / "whole")
