"""JSON lines and Parquet: the same rows give the same texts; wrong keys, columns and damage are named."""

import bz2
import gzip
import json
import lzma
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from pipeline.data.corpora import base, jsonl, open_corpus, parquet, text
from pipeline.data.corpora.base import Dropped
from pipeline.data.format.settings import ShardConfig
from pipeline.errors import UserError

TEXTS = ["one", "zwei é 😀", "", None, "a\0b", "x" * 5000, "last\nline"]
EXPECTED = ["one", "zwei é 😀", "empty", "empty", "NUL", "x" * 5000, "last\nline"]


def read(kind, source, **settings):
    config = ShardConfig(**{"corpus": kind, "name": kind, "validation_fraction": 0.0} | settings)
    corpus = open_corpus(config, str(source))
    for unit in corpus.units():
        for item in corpus.documents(unit):
            yield item.id, item.reason if isinstance(item, Dropped) else item.text


def json_lines(key="text", **options):
    return "".join(json.dumps({"url": "u", key: value}, **options) + "\n" for value in TEXTS).encode()


PACK = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress, ".zst": zstandard.compress}


@pytest.mark.parametrize("packed", PACK)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_json_lines_of_every_compression(tmp_path, packed, ascii_only):
    (tmp_path / f"a.jsonl{packed}").write_bytes(PACK[packed](json_lines(ensure_ascii=ascii_only)))
    assert [value for _, value in read("jsonl", tmp_path)] == EXPECTED


@pytest.mark.parametrize("unit", [1, 30, 6000])
@pytest.mark.parametrize("piece", [7, 100_000])
def test_json_lines_do_not_depend_on_how_a_file_is_cut(tmp_path, monkeypatch, unit, piece):
    (tmp_path / "a.jsonl").write_bytes(json_lines())
    whole = list(read("jsonl", tmp_path))
    monkeypatch.setattr(text, "UNIT_BYTES", unit)
    monkeypatch.setattr(base, "UNIT_BYTES", unit)
    monkeypatch.setattr(text, "PIECE_BYTES", piece)
    assert list(read("jsonl", tmp_path)) == whole


def test_frames_of_zstandard_follow_each_other(tmp_path):
    data = json_lines()
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(data[:40]) + zstandard.compress(data[40:]))
    assert [value for _, value in read("jsonl", tmp_path)] == EXPECTED


@pytest.mark.parametrize("packed", [".gz", ".xz", ".bz2", ".zst"])
@pytest.mark.parametrize("damage", [lambda data: data[:-5], lambda data: data[:20] + b"\x55" * 9 + data[29:]])
def test_damaged_compression_is_named(tmp_path, packed, damage):
    (tmp_path / f"a.jsonl{packed}").write_bytes(damage(PACK[packed](json_lines())))
    with pytest.raises(UserError, match=rf"a.jsonl\{packed} is truncated or corrupt"):
        list(read("jsonl", tmp_path))


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (b'{"text": "a"', "not JSON: Expecting ',' delimiter: line 1 column 13 (char 12)"),
        (b'["text"]', "expected a JSON object, not b'[\"text\"]'"),
        (b'{"texts": "a"}', "no key 'text'; its keys are texts (did you mean 'texts'?)"),
        (b"{}", "no key 'text'; it has none"),
        (b'{"text": 5}', "key 'text' holds int, not text"),
        (b"\0", "not JSON: Expecting value: line 1 column 1 (char 0)"),
    ],
)
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_wrong_lines_are_dropped_and_named(tmp_path, line, fault, end):
    (tmp_path / "a.jsonl").write_bytes(b'{"text":"ok"}\n' + line + end)
    config = ShardConfig(corpus="jsonl", name="j", validation_fraction=0.0)
    corpus = open_corpus(config, str(tmp_path))
    [unit] = corpus.units()
    good, dropped = corpus.documents(unit)
    assert good.text == "ok" and dropped.fault == f"a.jsonl at byte 14: {fault}"


def test_a_source_of_wrong_lines_is_refused(tmp_path, shard, monkeypatch):
    line, odd = json.dumps({"text": "the cat and the dogs " * 20}) + "\n", json.dumps({"body": "the dogs"}) + "\n"
    (tmp_path / "a.jsonl").write_text(line + odd + line)
    assert shard(tmp_path, tmp_path / "out", corpus="jsonl").parts["train"].dropped == {"no key 'text'": 1}
    (tmp_path / "a.jsonl").write_text(line + odd + odd)
    message = r"most of the source cannot be read: of 3 documents 2 were dropped \(no key 'text': 2\); a.jsonl at byte "
    with pytest.raises(UserError, match=message + rf"{len(line)}: no key 'text'; its keys are body$"):
        shard(tmp_path, tmp_path / "out2", corpus="jsonl")
    monkeypatch.setattr(jsonl, "FAULTS_AT_ONCE", 2)
    (tmp_path / "b.jsonl").write_text(odd + odd + line)
    assert len(list(read("jsonl", tmp_path))) == 6
    (tmp_path / "a.jsonl").write_text(odd + odd + line)
    with pytest.raises(UserError, match="begins and ends with lines that cannot be read: a.jsonl at byte 0: no key"):
        read("jsonl", tmp_path).__next__()


def test_the_first_zstandard_file_of_a_process_may_be_none(tmp_path, monkeypatch):
    (tmp_path / "a.jsonl.zst").write_bytes(b"no such frame")
    monkeypatch.delitem(sys.modules, "zstandard")
    with pytest.raises(UserError, match=r"a.jsonl.zst is truncated or corrupt: Unknown frame descriptor"):
        list(read("jsonl", tmp_path))


def test_text_that_is_no_unicode_is_dropped(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text":"\\ud800"}\n{"text":"\xff"}\n\n{"text":"ok"}\n')
    assert [value for _, value in read("jsonl", tmp_path)] == ["undecodable", "undecodable", "ok"]


def test_overlong_lines_and_rows_are_dropped_and_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "PIECE_BYTES", 100)
    monkeypatch.setattr(jsonl, "LARGEST_LINE", 1 << 20)
    monkeypatch.setattr(parquet, "LARGEST_ROW", 1 << 20)
    texts = ["a", "b" * (3 << 20), "c"]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": value}) + "\n" for value in texts))
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
    assert [value for _, value in read("jsonl", tmp_path)] == ["a", "a line over 1 MiB", "c"]
    assert [value for _, value in read("parquet", tmp_path)] == ["a", "a row over 1 MiB", "c"]


@pytest.mark.parametrize("rows", [1, 2, 100])
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_parquet_row_groups(tmp_path, rows, kind):
    table = pa.table({"url": ["u"] * len(TEXTS), "text": pa.array(TEXTS, kind)})
    (tmp_path / "b").mkdir()
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=rows)
    pq.write_table(table, tmp_path / "b" / "c.parquet", row_group_size=rows, compression="zstd")
    documents = list(read("parquet", tmp_path))
    assert [value for _, value in documents] == EXPECTED * 2
    assert [identity for identity, _ in documents[:2]] == ["a.parquet#0", "a.parquet#1"]
    assert len({identity for identity, _ in documents}) == len(documents)


def test_an_empty_row_group_loses_nothing(tmp_path):
    with pq.ParquetWriter(tmp_path / "a.parquet", pa.schema([("text", pa.string())])) as writer:
        for values in (["a"], [], ["b", "c"], []):
            writer.write_table(pa.table({"text": pa.array(values, pa.string())}), row_group_size=10)
    assert [value for _, value in read("parquet", tmp_path)] == ["a", "b", "c"]


def write_parquet(folder, **columns):
    pq.write_table(pa.table(columns), folder / "a.parquet")


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda folder: write_parquet(folder, texts=["a"]), r"no column 'text'; it has texts \(did you mean 'texts'"),
        (lambda folder: write_parquet(folder, text=[1, 2]), "column 'text' holds int64, not text"),
        (lambda folder: (folder / "a.parquet").write_bytes(b"PAR1 and so on"), "truncated or not a Parquet file"),
    ],
)
def test_wrong_parquet_is_named(tmp_path, prepare, message):
    prepare(tmp_path)
    with pytest.raises(UserError, match=message):
        list(read("parquet", tmp_path))


def test_damage_inside_a_parquet_file_is_named(tmp_path):
    write_parquet(tmp_path, text=[f"row {i} " * 50 for i in range(500)])
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    data[60:400] = b"\xff" * 340
    (tmp_path / "a.parquet").write_bytes(data)
    with pytest.raises(UserError, match=r"a.parquet is corrupt near row 0"):
        list(read("parquet", tmp_path))


def test_own_parts_come_from_file_names(tmp_path, shard):
    for part in ("train", "validation", "test"):
        rows = [{"text": f"{part} text number {i}"} for i in range(9)]
        (tmp_path / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    manifest = shard(tmp_path, tmp_path / "out", corpus="jsonl", validation_fraction=None, shards=1)
    assert {name: part.documents for name, part in manifest.parts.items()} == {"train": 9, "validation": 9, "test": 9}


def test_all_formats_give_the_same_tokens(tmp_path, shard):
    texts = [f"document {i} says naïve things\nin two lines" for i in range(50)]
    for kind in ("jsonl", "parquet", "text"):
        (tmp_path / kind).mkdir()
    (tmp_path / "jsonl" / "a.jsonl").write_text("".join(json.dumps({"body": value}) + "\n" for value in texts))
    pq.write_table(pa.table({"body": texts}), tmp_path / "parquet" / "a.parquet", row_group_size=7)
    for i, value in enumerate(texts):
        (tmp_path / "text" / f"{i:03}.txt").write_text(value)
    crcs = set()
    for kind in ("jsonl", "parquet", "text"):
        manifest = shard(tmp_path / kind, tmp_path / f"{kind}-out", corpus=kind, order="source", field="body", shards=1)
        crcs.add(manifest.parts["train"].shards[0].crc32c)
    assert len(crcs) == 1
