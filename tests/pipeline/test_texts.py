"""Every text is read one way: a byte order mark is not a character, and lines end at \\n or \\r\\n and nowhere else."""

import io
import json
import types

import numpy as np
import pytest

from models import config_files
from pipeline import generate, texts
from pipeline.config import gin_reader
from pipeline.config.train_config import TrainConfig
from pipeline.data.corpora.base import Document
from pipeline.data.format import tokenizer
from pipeline.data.format.settings import ShardConfig
from pipeline.data.sharding.encode_unit import UnitEncoder
from pipeline.errors import UserError
from pipeline.evaluation import benchmarks, scoring
from tools.sweep import axes

ODD = "one\u2028two\x85three\x0bfour\x0cfive\x1csix\rseven"  # one line, and to splitlines seven
BYTES = tokenizer.train(["the cat"], 257, "bytes")


def prompts(path, monkeypatch, interactive=False):
    flags = types.SimpleNamespace(prompt=None, prompts_file="" if interactive else str(path), interactive=interactive)
    monkeypatch.setattr(generate, "FLAGS", flags)
    return list(generate._batches())


def of_gin(path, _):
    return gin_reader.load([str(path)]).bound(TrainConfig)["steps"][0]


def of_tokenizer(path, _):
    loaded = tokenizer.load(str(path))
    return loaded.fingerprint, loaded.encode("the cat"), loaded.encode_batch(["the cat"])[0].tolist()


@pytest.mark.parametrize(
    ("content", "read"),
    [
        ("the cat\nthe dog\n", prompts),
        ("train.steps = 5\n", of_gin),
        ('{"train.seed": 1}\n', lambda path, _: axes.read_list(str(path))),
        ("the cat sat\n", lambda path, _: benchmarks.read_file(str(path))[0]),
        ('{"n_embd": 4}', lambda path, _: config_files._read_json(str(path))),
        (BYTES.data.decode(), of_tokenizer),
    ],
    ids=["prompts", "gin", "cells", "benchmark", "model", "tokenizer"],
)
def test_a_byte_order_mark_changes_nothing(tmp_path, monkeypatch, content, read):
    path = tmp_path / "file.json"
    path.write_bytes(content.encode())
    expected = read(path, monkeypatch)
    path.write_bytes(b"\xef\xbb\xbf" + content.encode())
    assert read(path, monkeypatch) == expected
    path.write_bytes(b"\xef\xbb\xbf" + content.replace("\n", "\r\n").encode())
    if "sat" not in content:  # a benchmark is scored with the line ends that it has
        assert read(path, monkeypatch) == expected


def test_lines():
    assert texts.lines("") == [] and texts.lines("\n") == [""] and texts.lines("a\n\nb") == ["a", "", "b"]
    assert texts.lines(f"{ODD}\r\n{ODD}\n") == [ODD, ODD]
    assert texts.without_end("a\r\n") == texts.without_end("a\n") == texts.without_end("a") == "a"
    assert texts.without_end(b"a\r\r\n") == b"a\r"
    assert texts.printable("a\nb\udce9") == "a b\\udce9"


def test_prompts_are_lines(tmp_path, monkeypatch):
    (tmp_path / "prompts").write_bytes(f"{ODD}\r\nthe cat \n\n".encode())
    assert prompts(tmp_path / "prompts", monkeypatch) == [[ODD, "the cat "]]
    (tmp_path / "gap").write_bytes(f"{ODD}\r\n\r\nthe cat\n".encode())
    with pytest.raises(UserError, match="line 2 is empty; expected a prompt on every line"):
        prompts(tmp_path / "gap", monkeypatch)
    typed = io.TextIOWrapper(io.BytesIO(f"\ufeff{ODD}\r\nthe cat\n\nno more".encode()), encoding="ascii")
    monkeypatch.setattr(generate.sys, "stdin", typed)
    assert prompts(None, monkeypatch, interactive=True) == [[ODD], ["the cat"]]
    for wrong in (b"\xff\n", b"\xed\xa0\x80\n"):
        monkeypatch.setattr(generate.sys, "stdin", io.TextIOWrapper(io.BytesIO(wrong)))
        with pytest.raises(UserError, match="what was typed is not UTF-8 text"):
            prompts(None, monkeypatch, interactive=True)


def test_lines_of_a_file_of_cells_and_of_gin(tmp_path):
    cell = {"train.pretrained": ODD.replace("\r", " ")}
    (tmp_path / "cells").write_text(json.dumps(cell, ensure_ascii=False) + "\n", newline="")
    assert axes.read_list(str(tmp_path / "cells")) == [cell]
    (tmp_path / "bad.gin").write_text(f"# {ODD[:3]}\u2028\ntrain.steps = (\n")
    with pytest.raises(UserError, match=r"bad.gin:2: "):
        gin_reader.load([str(tmp_path / "bad.gin")])


def test_a_passage_ends_where_its_line_does():
    nbsp = "the cat sat on a\u00a0"
    for line in (nbsp + " \r\n", json.dumps({"text": nbsp + "\n"}) + "\n"):
        [example] = benchmarks.examples_of("lambada", "file", line)
        assert (example.prompt, example.choices) == ("the cat sat on", (" a\u00a0",))


def test_packed_lines_are_those_of_the_text():
    settings = ShardConfig(corpus="text", name="t", packing="lines", context=99, validation_fraction=0.0)
    encoder = UnitEncoder(settings, BYTES, io.BytesIO())
    text = f"{ODD}\r\n \u2028\n{ODD}\n"
    rows, ends = encoder._lines([text], [Document("a", text)], np.zeros(1, np.uint8))
    ids = BYTES.encode(ODD)
    assert rows.reshape(-1, 100).tolist() == [ids + [BYTES.end_of_text] * (100 - len(ids))] * 2
    assert ends.tolist() == [200]


def test_words_of_a_text_are_counted_as_those_of_its_shards(monkeypatch):
    monkeypatch.setattr(scoring, "_sum", lambda *_: (1.0, 1))
    model = types.SimpleNamespace(config=types.SimpleNamespace(context=8))
    run = types.SimpleNamespace(tokenizer=BYTES, model=model, replicas=1)
    text = f"{ODD}\u00a0eight nine\n"
    likelihood = scoring.score_text(run, text, context=8, stride=8, batch=1)
    assert likelihood.words == len(text.encode().split()) + 1 == 6
