"""A published corpus is downloaded once, believed only with its sha256, and refused in one line."""

import functools
import hashlib
import http.server
import io
import threading
import zipfile

import pytest

from pipeline.data.corpora import download, open_corpus
from pipeline.data.format.settings import ShardConfig
from pipeline.errors import UserError

ARTICLE = " \n = Title = \n \n text \n"


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves a small WikiText zip on 127.0.0.1 and counts the requests."""
    folder = tmp_path / "served"
    folder.mkdir()
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for part in ("train", "valid", "test"):
            archive.writestr(f"wikitext-2-raw/wiki.{part}.raw", ARTICLE)
    (folder / "wikitext-2-raw-v1.zip").write_bytes(data.getvalue())
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            asked.append(self.path)

    service = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    threading.Thread(target=service.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{service.server_port}/"
    sha256 = hashlib.sha256(data.getvalue()).hexdigest()
    monkeypatch.setitem(download.SHA256, "wikitext-2", sha256)
    monkeypatch.setattr(download, "FOLDERS", (address + "gone/", address))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield asked
    service.shutdown()


def config(name):
    return ShardConfig(corpus="wikitext", name=name, validation_fraction=None)


def test_download_by_name_happens_once_and_falls_back(server):
    for _ in range(2):
        corpus = open_corpus(config("wikitext-2"), None)
        parts = [document.part for unit in corpus.units() for document in corpus.documents(unit)]
        assert parts == ["train", "validation", "test"]
    assert server.count("/wikitext-2-raw-v1.zip") == 1 and "/gone/wikitext-2-raw-v1.zip" in server


def test_other_bytes_are_not_kept(server, monkeypatch, tmp_path):
    monkeypatch.setitem(download.SHA256, "wikitext-2", "0" * 64)
    with pytest.raises(UserError, match="cannot be downloaded .*has sha256 .* instead of 0000.*--source"):
        open_corpus(config("wikitext-2"), None)
    assert not list((tmp_path / "cache").rglob("*.*"))


def test_a_damaged_cache_is_downloaded_again(server, tmp_path):
    path = download.published("wikitext-2")
    with open(path, "ab") as file:
        file.write(b"x")
    assert download.published("wikitext-2") == path
    assert server.count("/wikitext-2-raw-v1.zip") == 2


def test_other_names_need_a_source():
    with pytest.raises(UserError, match="corpus 'wikitext-3' needs --source: only wikitext-2, wikitext-103"):
        open_corpus(config("wikitext-3"), None)
