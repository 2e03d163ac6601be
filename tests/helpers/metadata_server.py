"""Google's metadata server on 127.0.0.1, for a VM whose entries a test sets; requests can wait for a change."""

import http.server
import math
import threading
import urllib.parse

import pytest

FOLDER = "/computeMetadata/v1/instance/"


class MetadataServer:
    """The server of one VM. Use as a context manager.

    Attributes:
        address: HOST:PORT.
        asked: paths and queries of the requests, in their order.
        waits: whether it knows ``wait_for_change``; without, it answers at once.
    """

    def __init__(self):
        self.asked, self.waits = [], True
        self._entries, self._answers, self._changed = {}, math.inf, threading.Condition()
        handler = type("Handler", (_Handler,), {"vm": self})
        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self.address = f"127.0.0.1:{self._http.server_port}"

    def __enter__(self):
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.fall_silent(None)
        self._http.shutdown()
        self._http.server_close()

    def say(self, entries):
        """Sets entries by their paths below ``instance/``; requests that wait for them are answered."""
        with self._changed:
            self._entries |= entries
            self._changed.notify_all()

    def fall_silent(self, after=0):
        """Answers this many more requests, and then takes them without an answer; None answers all again."""
        with self._changed:
            self._answers = math.inf if after is None else after
            self._changed.notify_all()

    def wait_until_asked(self, count, seconds=60):
        """Blocks until this many requests have come."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.asked) >= count, seconds), self.asked

    def answer(self, path, query):
        """Returns the entry, or None if there is none, as soon as it may be told."""
        with self._changed:
            self.asked.append((path, query))
            self._changed.notify_all()
            if query.get("wait_for_change") == "true" and self.waits:
                different = lambda: self._entries.get(path) != query["last_etag"]  # noqa: E731
                self._changed.wait_for(different, float(query["timeout_sec"]))
            self._changed.wait_for(lambda: self._answers > 0)
            self._answers -= 1
            return self._entries.get(path)


class _Handler(http.server.BaseHTTPRequestHandler):
    vm: MetadataServer

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        known = url.path.startswith(FOLDER) and self.headers["Metadata-Flavor"] == "Google"
        value = (
            self.vm.answer(url.path.removeprefix(FOLDER), dict(urllib.parse.parse_qsl(url.query))) if known else None
        )
        try:
            self.send_response(404 if value is None else 200)
            self.send_header("ETag", value or "0")  # the value itself differs whenever it does
            self.end_headers()
            self.wfile.write(b"<html>not found</html>" if value is None else value.encode())
        except OSError:
            pass  # the one that asked has gone

    def log_message(self, *_):
        pass


@pytest.fixture
def metadata_server(monkeypatch):
    """A MetadataServer that this process asks, and an environment that says nothing else of a TPU VM."""
    with MetadataServer() as server:
        monkeypatch.delenv("TPU_ACCELERATOR_TYPE", raising=False)
        monkeypatch.setenv("GCE_METADATA_HOST", server.address)
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # is not asked: it would tell of its own machine
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        yield server
