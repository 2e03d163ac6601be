"""Every odd corpus of ../shared/cases/make_corpora.py gives its texts, each drop counted, or one sentence."""

import os
import re
import subprocess
import sys

import pytest

from pipeline.data.format import tokenizer
from pipeline.errors import UserError
from tests.helpers.places import SHARED

pytestmark = pytest.mark.cases
MAKER = SHARED / "cases" / "make_corpora.py"
DOCS = [(f"document {i}: the cat sat on a mat and ran to the box of toys. " * 5).strip() for i in range(8)]
TWICE = DOCS + [text.replace("document", "second") for text in DOCS]
TITLES = [" \n = Title = \n \n the cat sat on a mat . \n"] * 150
JSONL, PARQUET, TEXT = {"corpus": "jsonl"}, {"corpus": "parquet"}, {"corpus": "text"}
WIKI = {"corpus": "wikitext", "validation_fraction": None}

# of each folder: settings, texts in the source's order, what is dropped, and parts of the notes
GIVES = {
    "deep": (JSONL, DOCS, {"JSON too deep": 1}, ["a.jsonl at byte 2536: its brackets are too deep"]),
    "bigint": (JSONL, DOCS, {"a number too long": 1}, ["a.jsonl at byte 2536: Exceeds the limit (4300 digits)"]),
    "bom": (JSONL, DOCS, {}, []),
    "u2028": (JSONL, [*DOCS, "one\u2028two\x85three\x0bfour\x0cfive"], {}, []),
    "lone": (JSONL, [*DOCS, "good 😀 pair"], {"undecodable": 1}, ["byte 2536: the text has half of a surrogate pair"]),
    "crlf": (JSONL, DOCS, {}, []),
    "concat": (JSONL, DOCS[:7] + DOCS[1:], {"not JSON": 1}, ["a.jsonl at byte 2219: not JSON: Extra data"]),
    "ext": (JSONL, DOCS, {}, []),
    "zmulti": (JSONL, TWICE, {}, []),
    "zskip": (JSONL, DOCS, {}, []),
    "zlong": (JSONL, DOCS * 2, {}, []),
    "zempty": (JSONL, DOCS, {}, []),
    "gzmulti": (JSONL, TWICE, {}, []),
    "gzpad": (JSONL, DOCS, {}, []),
    "bzmulti": (JSONL, TWICE, {}, []),
    "xzmulti": (JSONL, TWICE, {}, []),
    "pdict": (PARQUET, DOCS, {}, []),
    "plarge": (PARQUET, DOCS, {}, []),
    "pview": (PARQUET, DOCS, {}, []),
    "pnull": (PARQUET, DOCS, {"empty": 2}, []),
    "pnested": (PARQUET, DOCS, {}, []),
    "pdot": (PARQUET, DOCS, {}, []),
    "pgroups": (PARQUET, DOCS, {}, []),
    "pbrotli": (PARQUET, DOCS, {}, []),
    "tutf16": (TEXT, DOCS[1:2], {"undecodable": 1}, ["(undecodable): a.txt begins as UTF-16 does"]),
    "tlatin": (TEXT, DOCS[1:2], {"undecodable": 1}, ["(undecodable): a.txt is not UTF-8 at its byte 3: "]),
    "tname": (TEXT, [DOCS[2], DOCS[1]], {}, []),
    "tnl": (TEXT, [DOCS[1], DOCS[2]], {}, []),
    "t [v2]": (TEXT, DOCS[1:3], {}, []),
    "t what?": (TEXT, DOCS[1:2], {}, []),
    "t#100%": (TEXT, DOCS[1:2], {}, []),
    "tloop": (TEXT, DOCS[1:2], {}, ["1 dead link (dead.txt), 1 linked folder that is read already (loop/)"]),
    "tlink": (TEXT, DOCS[1:2], {}, []),
    "tlinked": (TEXT, DOCS[1:2], {}, []),
    "tcase": (TEXT, DOCS[1:2], {}, []),
    "tcr": (TEXT, ["\r".join(DOCS[:5])], {}, []),
    "tmac": (TEXT, DOCS[3:4], {}, ["1 resource fork (__MACOSX/)"]),
    "wikimac/w.zip": (WIKI, TITLES, {}, ["3 resource fork (__MACOSX/wikitext-2-raw/._wiki.test.raw)"]),
}
REFUSED = {
    "pbinary": (PARQUET, "a.parquet: column 'text' holds binary, not text"),
    "plist": (PARQUET, "a.parquet: column 'text' holds list<element: string>, not text"),
    "pallnull": (PARQUET, "the source holds no document: 4 were dropped (empty: 4)"),
    "wikimac": (WIKI, "holds no file named *.raw, *.tokens"),
}


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    if not MAKER.is_file():
        pytest.skip("../shared/cases/make_corpora.py is not on this machine")
    path = tmp_path_factory.mktemp("odd corpora")
    subprocess.run([sys.executable, str(MAKER), str(path)], check=True)
    return path


def test_every_folder_is_checked(odd):
    assert {name.partition("/")[0] for name in {**GIVES, **REFUSED}} == set(os.listdir(odd))


@pytest.mark.parametrize("name", GIVES)
def test_texts_are_right(odd, tmp_path, shard, small_tokenizer, name):
    settings, texts, dropped, notes = GIVES[name]
    manifest = shard(odd / name, tmp_path / "out", 1, {}, order="source", **settings)
    parts = manifest.parts.values()
    oracle = tokenizer.load(small_tokenizer)
    assert sum(part.documents for part in parts) == len(texts)
    assert sum(part.utf8_bytes for part in parts) == sum(len(text.encode()) for text in texts)
    assert sum(part.tokens for part in parts) == sum(len(oracle.encode(text)) + 1 for text in texts)
    assert {reason: count for part in parts for reason, count in part.dropped.items()} == dropped
    given = [note for note in manifest.corpus.notes if "are in the train part too" not in note]
    assert len(given) == len(notes) and all(note in line for note, line in zip(notes, given, strict=True))


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_are_one_sentence(odd, tmp_path, shard, name):
    settings, message = REFUSED[name]
    with pytest.raises(UserError, match=re.escape(message)):
        shard(odd / name, tmp_path / "out", 1, {}, **settings)
    assert not (tmp_path / "out").exists() or not os.listdir(tmp_path / "out")
