"""Readers lose nothing, repeat themselves exactly and drop for stated reasons only."""

import pathlib
import sysconfig
import zipfile

import pytest

from pipeline.data.corpora import base, open_corpus, text
from pipeline.data.corpora.base import Document, Dropped, part_of_name
from pipeline.data.format.settings import ShardConfig
from pipeline.errors import UserError
from tests.helpers.places import WIKITEXT


def read(config, source=None):
    corpus = open_corpus(ShardConfig(**{"name": config["corpus"], "validation_fraction": 0.0} | config), source)
    return [item for unit in corpus.units() for item in corpus.documents(unit)]


def joined(document):
    return document.text if isinstance(document.text, str) else "".join(document.text)


def test_cpython_is_the_library_and_the_topics_without_tests():
    documents = read({"corpus": "cpython"})
    names = [document.id for document in documents if isinstance(document, Document)]
    assert documents == read({"corpus": "cpython"})
    assert len(set(names)) == len(names)
    topics = [name for name in names if name.startswith("topics/")]
    assert topics == sorted(topics) and names[: len(topics)] == topics and "topics/lambda" in topics
    assert {"Lib/abc.py", "Lib/json/decoder.py", "Lib/asyncio/tasks.py"} <= set(names)
    banned = ("/test/", "/tests/", "/test_", "site-packages", "/idle_test/", "pydoc_data/topics.py", "_sysconfigdata")
    assert not [name for name in names if any(word in name for word in banned)]
    library = pathlib.Path(sysconfig.get_paths()["stdlib"], "abc.py").read_text(encoding="utf-8")
    assert next(document.text for document in documents if document.id == "Lib/abc.py") == library


def test_cpython_takes_no_source():
    with pytest.raises(UserError, match="takes no --source"):
        read({"corpus": "cpython"}, "/tmp")


@pytest.mark.parametrize(("file", "count"), [("wiki.valid.raw", 60), ("wiki.test.raw", 60)])
def test_articles_add_up_to_the_file(file, count):
    if not WIKITEXT.is_dir():
        pytest.skip("the WikiText text is not on this machine")
    with open(WIKITEXT / file, "rb") as stream:
        articles = list(text.articles(stream))
    whole = (WIKITEXT / file).read_bytes()
    assert b"".join(raw for _, raw in articles) == whole
    assert all(whole.startswith(raw, offset) for offset, raw in articles)
    assert len(articles) == count
    assert all(raw.split(b"\n")[1].startswith(b" = ") for _, raw in articles)


ARTICLES = " \n = One = \n \n text \n = = Part = = \n more \n \n = Two = \n \n text \n"


def wikitext(folder, **files):
    for name, content in files.items():
        (folder / f"wiki.{name}.raw").write_text(content)
    return str(folder)


def test_wikitext_parts_come_from_the_names(tmp_path):
    source = wikitext(tmp_path, train=ARTICLES, valid=ARTICLES, test=ARTICLES)
    documents = read({"corpus": "wikitext", "validation_fraction": None}, source)
    assert [document.part for document in documents] == ["train", "train", "validation", "validation", "test", "test"]
    assert "".join(document.text for document in documents[:2]) == ARTICLES
    assert documents[1].text.startswith(" \n = Two = \n")


def test_wikitext_is_read_from_the_published_zip_without_unpacking(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as archive:
        for name in ("train", "valid", "test"):
            archive.writestr(f"wikitext-2-raw/wiki.{name}.raw", ARTICLES)
    documents = read({"corpus": "wikitext", "validation_fraction": None}, str(tmp_path / "w.zip"))
    plain = read(
        {"corpus": "wikitext", "validation_fraction": None}, wikitext(tmp_path, train=ARTICLES, valid=ARTICLES)
    )
    assert [(d.id, d.text) for d in documents[:4]] == [(d.id, d.text) for d in plain]


def test_wikitext_without_its_train_file_says_so(tmp_path):
    source = wikitext(tmp_path, valid=ARTICLES, test=ARTICLES)
    corpus = open_corpus(ShardConfig(corpus="wikitext", name="w", validation_fraction=None), source)
    parts = [document.part for unit in corpus.units() for document in corpus.documents(unit)]
    assert sorted(set(parts)) == ["train", "validation"]
    assert "the train part is made of wiki.test.raw" in corpus.notes[0]
    (tmp_path / "wiki.test.raw").unlink()
    with pytest.raises(UserError, match="nothing to train on"):
        open_corpus(ShardConfig(corpus="wikitext", name="w", validation_fraction=None), source)


def test_wikitext_with_a_byte_order_mark_and_windows_line_ends_has_the_same_articles(tmp_path):
    config = {"corpus": "wikitext", "validation_fraction": None}
    plain = read(config, wikitext(tmp_path, train=ARTICLES))
    (tmp_path / "wiki.train.raw").write_bytes(b"\xef\xbb\xbf" + ARTICLES.replace("\n", "\r\n").encode())
    assert [d.text.replace("\r\n", "\n") for d in read(config, str(tmp_path))] == [d.text for d in plain]


@pytest.mark.parametrize(
    ("names", "flag_bits", "message"),
    [
        (("a/wiki.train.raw", "b/wiki.train.raw"), 0, "holds wiki.train.raw more than once; expected one WikiText"),
        (("wiki.train.raw",), 1, "is encrypted, password required for extraction; expected a zip file without"),
        (("__MACOSX/._wiki.train.raw",), 0, "holds none of wiki.train.raw"),
    ],
)
def test_zip_files_that_are_no_one_wikitext_are_refused(tmp_path, names, flag_bits, message):
    with zipfile.ZipFile(tmp_path / "w.ZIP", "w") as archive:
        for name in names:
            archive.writestr(name, ARTICLES)
            archive.filelist[-1].flag_bits |= flag_bits
    with pytest.raises(UserError, match=message):
        read({"corpus": "wikitext", "validation_fraction": None}, str(tmp_path / "w.ZIP"))


def test_wikitext_refuses_what_is_no_utf8_and_names_the_byte(tmp_path):
    (tmp_path / "wiki.train.raw").write_bytes(ARTICLES.encode() + b" \n = Three = \n \xff\n")
    with pytest.raises(UserError, match=rf"wiki.train.raw: not UTF-8 at byte {len(ARTICLES) + 15}"):
        read({"corpus": "wikitext", "validation_fraction": None}, str(tmp_path))


def test_files_are_documents_named_by_their_place_in_the_source(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "2.txt").write_text("two")
    (tmp_path / "a.txt").write_text("\ufeffone")
    (tmp_path / "c.txt").write_text(" \t\n")
    (tmp_path / "d.txt").write_bytes(b"x\0")
    (tmp_path / "e.txt").write_bytes(b"\xff\xfe")
    (tmp_path / "f.md").write_text("not asked for")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "g.txt").write_text("not asked for")
    documents = read({"corpus": "text"}, str(tmp_path))
    assert documents == [
        Document("a.txt", "one"),
        Document("b/2.txt", "two"),
        Dropped("c.txt", "empty"),
        Dropped("d.txt", "NUL"),
        Dropped("e.txt", "undecodable", fault="e.txt begins as UTF-16 does; expected UTF-8"),
    ]
    assert read({"corpus": "text"}, str(tmp_path / "*.md")) == [Document("f.md", "not asked for")]
    assert read({"corpus": "text"}, str(tmp_path / "f.md")) == [Document("f.md", "not asked for")]
    short = read({"corpus": "text", "minimum_characters": 4}, str(tmp_path / "[ab]*"))
    assert short == [Dropped("a.txt", "under 4 characters"), Dropped("b/2.txt", "under 4 characters")]


@pytest.mark.parametrize("unit", [1, 2, 5, 7, 40, 1000])
@pytest.mark.parametrize("piece", [4, 9, 1000])
def test_lines_do_not_depend_on_how_a_file_is_cut(tmp_path, monkeypatch, unit, piece):
    content = "one\n\ntwo\r\nthree é\n" + "long " * 9 + "\nlast"
    (tmp_path / "a.txt").write_text(content, newline="")
    for module, name, value in ((text, "UNIT_BYTES", unit), (text, "PIECE_BYTES", piece), (base, "PIECE_BYTES", piece)):
        monkeypatch.setattr(module, name, value)
    documents = [
        (item.id, item.reason if isinstance(item, Dropped) else joined(item))
        for item in stream({"corpus": "text", "documents": "line"}, str(tmp_path))
    ]
    places = [0, 4, 5, 10, 19, 65]
    texts = ["one", "empty", "two", "three é", "long " * 9, "last"]
    assert documents == [(f"a.txt@{place}", line) for place, line in zip(places, texts, strict=True)]


def stream(config, source):
    """Like ``read``, but each document is used before the next one is drawn, as the sharder does."""
    corpus = open_corpus(ShardConfig(**{"name": config["corpus"], "validation_fraction": 0.0} | config), source)
    for unit in corpus.units():
        yield from corpus.documents(unit)


def test_units_keep_order_and_size(tmp_path):
    for number in range(30):
        (tmp_path / f"{number:02}.txt").write_text("x" * 100)
    corpus = open_corpus(ShardConfig(corpus="text", name="t", validation_fraction=0.0), str(tmp_path))
    units = list(base.grouped(corpus._inputs, 450))
    assert [len(unit.inputs) for unit in units] == [4] * 7 + [2]
    assert [unit.index for unit in units] == list(range(8))
    assert sum(unit.size for unit in units) == corpus.total_bytes == 3000


@pytest.mark.parametrize(
    ("prepare", "source", "message"),
    [
        (lambda folder: None, None, "corpus 'text' needs --source"),
        (lambda folder: None, "nowhere", "nowhere does not exist"),
        (lambda folder: None, ".", r"holds no file named \*.txt"),
        (lambda folder: (folder / "a.txt").touch(), ".", "is empty: 1 files of 0 bytes"),
        (lambda folder: None, "x*.txt", r"holds no file named"),
    ],
)
def test_bad_sources_are_named(tmp_path, monkeypatch, prepare, source, message):
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path)
    with pytest.raises(UserError, match=message):
        read({"corpus": "text"}, source)


def test_part_names():
    names = ("wiki.train.raw", "wiki.valid.raw", "x/dev-000.jsonl", "my_test.txt", "latest.txt", "a.txt")
    assert [part_of_name(name) for name in names] == ["train", "validation", "validation", "test", None, None]
