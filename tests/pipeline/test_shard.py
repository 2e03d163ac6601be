"""The command lines of the sharder and the tokenizer: what they print, repeat and refuse."""

import json

import pytest

from tests.helpers.places import WIKITEXT


def test_the_embedded_corpus_end_to_end(tmp_path, run_module):
    out = tmp_path / "cpython"
    trained = run_module("pipeline.tokenizer", f"--output={tmp_path}/own.json", "--size=1000")
    assert trained.returncode == 0, trained.stderr
    assert "1,000 entries, end of text is 0" in trained.stdout
    arguments = (
        "--gin_file=datasets/cpython.gin",
        f"--output={out}",
        f"--gin_param=shard.tokenizer='{tmp_path}/own.json'",
    )
    done = run_module("pipeline.shard", *arguments)
    assert done.returncode == 0, done.stderr
    assert f"wrote {out}" in done.stdout and "train: " in done.stdout and "validation: " in done.stdout
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["tokenizer"]["vocabulary_size"] == 1000 and len(manifest["parts"]["train"]["shards"]) == 8
    assert manifest["parts"]["train"]["utf8_bytes"] > 5_000_000
    assert (out / "tokenizer.json").read_bytes() == (tmp_path / "own.json").read_bytes()
    again = run_module("pipeline.shard", *arguments)
    assert again.returncode == 0 and "already holds this data set; nothing to do" in again.stdout


@pytest.mark.skipif(not WIKITEXT.is_dir(), reason="the WikiText text is not on this machine")
def test_wikitext_without_its_train_file_is_sharded_with_a_warning(tmp_path, run_module):
    done = run_module(
        "pipeline.shard", "--gin_file=datasets/wikitext-2.gin", f"--source={WIKITEXT}", f"--output={tmp_path}/out"
    )
    assert done.returncode == 0, done.stderr
    assert "note: wiki.train.raw is not in the source" in done.stderr
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    words = {name: part["words"] for name, part in manifest["parts"].items()}
    assert words == {"train": 245_569, "validation": 217_646}  # the published counts of the test and validation text
    assert manifest["parts"]["validation"]["utf8_bytes"] == (WIKITEXT / "wiki.valid.raw").stat().st_size


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--gin_file is missing"),
        (["--gin_file=datasets/text.gin"], "--output is missing"),
        (["--gin_file=datasets/text.gin", "--output=OUT"], "corpus 'text' needs --source"),
        (["--gin_file=datasets/text.gin", "--source=nowhere", "--output=OUT"], "--source=nowhere does not exist"),
        (["--gin_file=datasets/cypthon.gin", "--output=OUT"], "did you mean 'datasets/cpython.gin'"),
        (["--gin_file=datasets/cpython.gin", "--output=OUT", "--gin_param=shard.shard=4"], "no parameter 'shard'"),
        (
            ["--gin_file=datasets/cpython.gin", "--output=OUT", "--gin_param=shard.shards=100000"],
            "expected 1 to 99,999",
        ),
        (["--gin_file=datasets/cpython.gin", "--output=OUT", "--gin_param=shard.tokenizer='gpt-2'"], "no tokenizer"),
        (["--gin_file=datasets/cpython.gin", "--output=OUT", "--workers=0"], "--workers=0: expected 1 or more"),
        (["--gin_file=datasets/cpython.gin", "--output=README.md"], "README.md is a file, not a directory"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(tmp_path, refused, arguments, message):
    out = tmp_path / "out"
    assert message in refused("pipeline.shard", *(argument.replace("OUT", str(out)) for argument in arguments))
    assert not out.exists()


def test_a_tokenizer_goes_to_a_bucket(gcs, tmp_path, run_module, refused):
    (tmp_path / "a.txt").write_text("the cat sat on the mat and the dog sat on the log " * 20)
    command = ["pipeline.tokenizer", "--gin_file=datasets/text.gin", f"--source={tmp_path}", "--size=270"]
    assert "there is no bucket gs://no-such" in refused(*command, "--output=gs://no-such/t.json")
    assert not gcs.objects()
    done = run_module(*command, "--output=gs://corpus/t.json")
    assert done.returncode == 0, done.stderr
    here = run_module(*command, f"--output={tmp_path}/t.json")
    assert here.returncode == 0 and gcs.objects() == {"t.json": (tmp_path / "t.json").read_bytes()}


def test_a_tokenizer_that_the_text_cannot_fill_is_refused(tmp_path, refused):
    (tmp_path / "a.txt").write_text("too little")
    message = refused(
        "pipeline.tokenizer", "--gin_file=datasets/text.gin", f"--source={tmp_path}", f"--output={tmp_path}/t.json"
    )
    assert "of 8192 tokens" in message and not (tmp_path / "t.json").exists()
