"""Cloud Storage on 127.0.0.1 for tests: gcp-storage-emulator's store under a stricter protocol, TLS and faults.

Two clients speak to one port. google-cloud-storage speaks plain HTTP to STORAGE_EMULATOR_HOST. TensorFlow's client
has no setting for the service's address, but its libcurl honours ``https_proxy`` and TensorFlow ``CURL_CA_BUNDLE``:
so CONNECT is answered here too, and the connection continues under TLS with a certificate of a test authority.
gcs_connection.py speaks HTTP and makes the faults, gcs_calls.py handles the calls.
"""

import dataclasses
import http.server
import os
import pathlib
import re
import ssl
import subprocess
import threading
import urllib.parse
from typing import Any

from gcp_storage_emulator.handlers import buckets, objects
from gcp_storage_emulator.storage import Storage

FAULTS = ("status", "cut_reply", "no_reply", "cut_upload", "kept_half", "slow", "wrong_crc32c", "damaged")


@dataclasses.dataclass
class Seen:
    """A request as it was received; ``status`` is that of the answer (0: none)."""

    verb: str
    path: str  # decoded, without the query
    query: dict[str, str]
    headers: dict[str, str]
    size: int
    encrypted: bool
    status: int = 0


@dataclasses.dataclass
class Fault:
    """A fault of the next ``times`` requests of this verb whose decoded address matches ``path``.

    Kinds: status (answers ``value``), cut_reply (half of it, then a reset), no_reply (done, but a reset instead of a
    reply), cut_upload (a reset after half of the body came), kept_half (of a chunk, as the reply says), slow (``value``
    seconds inside the reply), wrong_crc32c (in what is reported), damaged (a byte of the body is another one).
    """

    kind: str
    verb: str
    path: str
    times: int
    value: float
    hits: int = 0
    content_range: str = ""  # prefix of this header of the request

    def takes(self, seen: Seen) -> bool:
        """Returns whether the fault applies to this request."""
        address = seen.path + "?" + urllib.parse.urlencode(seen.query, safe="/")
        if self.hits >= self.times or self.verb not in ("", seen.verb) or not re.search(self.path, address):
            return False
        return seen.headers.get("content-range", "").startswith(self.content_range)


class Emulator:
    """The server, its store, its log of requests and its faults. Use as a context manager."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self._certificates()
        self.store = Storage(use_memory_fs=True)
        self.lock = threading.RLock()
        self.page_size = 1000
        self.reset()
        from tests.helpers.gcs_connection import Connection

        handler = type("BoundConnection", (Connection,), {"emulator": self})
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.http.daemon_threads = True
        self.address = f"127.0.0.1:{self.http.server_address[1]}"
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(self.folder / "leaf.pem", self.folder / "leaf.key")

    def __enter__(self) -> "Emulator":
        threading.Thread(target=self.http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.http.server_close()

    def _certificates(self) -> None:
        names = "DNS:www.googleapis.com,DNS:storage.googleapis.com"
        (self.folder / "extensions").write_text(f"subjectAltName={names}")
        for line in (
            "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=test-authority",
            "req -newkey rsa:2048 -nodes -keyout leaf.key -out leaf.csr -subj /CN=www.googleapis.com",
            "x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out leaf.pem -days 2 -extfile extensions",
        ):
            subprocess.run(["openssl", *line.split()], cwd=self.folder, check=True, capture_output=True)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a process whose gs:// paths, Python's and TensorFlow's, come here."""
        return {
            **os.environ,
            "https_proxy": f"http://{self.address}",
            "no_proxy": "127.0.0.1,localhost",
            "CURL_CA_BUNDLE": str(self.folder / "ca.pem"),
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "test",
            "STORAGE_EMULATOR_HOST": f"http://{self.address}",
            "GCS_READAHEAD_BUFFER_SIZE_BYTES": str(4 << 20),  # as pipeline.cli sets it
            "GCS_RETRY_CONFIG_INIT_DELAY_TIME_US": "10000",  # TensorFlow's; a second otherwise
            "GCS_STAT_CACHE_MAX_AGE": "0",  # TensorFlow's; a test may change an object behind its back
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }

    def reset(self) -> None:
        """Forgets everything but one empty bucket, ``corpus``."""
        with self.lock:
            self.store.wipe()
            buckets.create_bucket("corpus", self.store)
            self.requests: list[Seen] = []
            self.faults: list[Fault] = []
            self.sessions: dict[str, bytearray] = {}
            self.completed: dict[str, dict[str, Any]] = {}

    def inject(
        self, kind: str, *, verb: str = "", path: str = "", times: int = 1, value: float = 0, content_range: str = ""
    ) -> Fault:
        """Adds a fault; see ``Fault``."""
        assert kind in FAULTS, kind
        fault = Fault(kind, verb, path, times, value, content_range=content_range)
        self.faults.append(fault)
        return fault

    def objects(self, bucket: str = "corpus") -> dict[str, bytes]:
        """Returns every visible object, by name."""
        with self.lock:
            return {name: self.store.get_file(bucket, name) for name in self.store.objects.get(bucket, {})}

    def put(self, name: str, data: bytes) -> None:
        """Creates or replaces an object of the bucket ``corpus``."""
        with self.lock:
            resource = objects._make_object_resource("", "corpus", name, "", str(len(data)))
            self.store.create_file("corpus", name, data, objects._checksums(data, resource))

    def delete(self, name: str) -> None:
        """Deletes an object of the bucket ``corpus``."""
        with self.lock:
            self.store.delete_file("corpus", name)

    def seen(self, verb: str = "", path: str = "") -> list[Seen]:
        """Returns the requests of a verb whose decoded path (with uploadType) matches."""
        return [
            seen
            for seen in self.requests
            if verb in ("", seen.verb) and re.search(path, f"{seen.path}?{seen.query.get('uploadType', '')}")
        ]
