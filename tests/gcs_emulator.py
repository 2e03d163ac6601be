"""Cloud Storage on 127.0.0.1 for tests: gcp-storage-emulator's store under a stricter protocol, TLS and faults.

Two clients speak to one port. google-cloud-storage speaks plain HTTP to STORAGE_EMULATOR_HOST. TensorFlow's client
has no setting for the service's address, but its libcurl honours ``https_proxy`` and TensorFlow ``CURL_CA_BUNDLE``:
so CONNECT is answered here too, and the connection goes on under TLS with a certificate that a test authority signed.

What gcp-storage-emulator 2026.7.19 lacks, and is done here: preconditions and the generation parameter, 404 and 412
with the service's words, resumable uploads that are taken up (overlapping chunks, what is kept of a cut one, a last
reply that was lost), ranges beyond the end, paged listings, empty bodies, and https in the addresses that it hands out.
Sources: https://cloud.google.com/storage/docs/json_api/v1 and …/docs/performing-resumable-uploads.
"""

import base64
import dataclasses
import http.server
import json
import os
import pathlib
import re
import socket
import ssl
import struct
import subprocess
import tempfile
import threading
import time
import urllib.parse
from typing import Any

import google_crc32c
from gcp_storage_emulator import server
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import buckets, objects
from gcp_storage_emulator.storage import Storage

QUANTUM = 256 << 10  # of a chunk that is cut, whole multiples of this are kept
FAULTS = ("status", "cut_reply", "no_reply", "cut_upload", "slow", "wrong_crc32c", "damaged")
ABORT = struct.pack("ii", 1, 0)  # SO_LINGER of 0 s: closing sends RST instead of an orderly end


@dataclasses.dataclass
class Seen:
    """A request, as it came; ``status`` is what was answered (0: nothing)."""

    verb: str
    path: str  # decoded, without the query
    query: dict[str, str]
    headers: dict[str, str]
    size: int
    encrypted: bool
    status: int = 0


@dataclasses.dataclass
class Fault:
    """What goes wrong with the next ``times`` requests of this verb whose decoded address matches ``path``.

    Kinds: status (answers ``value``), cut_reply (half of the body, then a reset), no_reply (done, but a reset instead
    of a reply), cut_upload (a reset after half of the body came), slow (``value`` seconds inside the reply),
    wrong_crc32c (in what is reported), damaged (a byte of the body is another one).
    """

    kind: str
    verb: str
    path: str
    times: int
    value: float
    hits: int = 0

    def takes(self, seen: Seen) -> bool:
        """Whether the fault is for this request."""
        address = seen.path + "?" + urllib.parse.urlencode(seen.query, safe="/")
        fits = self.hits < self.times and self.verb in ("", seen.verb) and re.search(self.path, address)
        return bool(fits)


class RefusalError(Exception):
    """An error as the service words it."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status, self.message = status, message


class Emulator:
    """The server, its store, its log of requests and its faults. Use as a context manager."""

    def __init__(self, folder: pathlib.Path | None = None):
        self.folder = pathlib.Path(folder or tempfile.mkdtemp())
        self._certificates()
        self.store = Storage(use_memory_fs=True)
        self.lock = threading.RLock()
        self.page_size = 1000
        self.reset()
        emulator = self

        class BoundHandler(Handler):
            """The handler of this emulator."""

        BoundHandler.emulator = emulator
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), BoundHandler)
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

    def inject(self, kind: str, *, verb: str = "", path: str = "", times: int = 1, value: float = 0) -> Fault:
        """Adds a fault; see ``Fault``."""
        assert kind in FAULTS, kind
        fault = Fault(kind, verb, path, times, value)
        self.faults.append(fault)
        return fault

    def objects(self, bucket: str = "corpus") -> dict[str, bytes]:
        """Every object that is visible, by name."""
        with self.lock:
            return {name: self.store.get_file(bucket, name) for name in self.store.objects.get(bucket, {})}

    def seen(self, verb: str = "", path: str = "") -> list[Seen]:
        """The requests of a verb whose decoded path (with uploadType) matches."""
        return [
            seen
            for seen in self.requests
            if verb in ("", seen.verb) and re.search(path, f"{seen.path}?{seen.query.get('uploadType', '')}")
        ]


class Request(server.Request):
    """A request whose body was read before; empty bodies are bytes too, and multipart bodies keep every byte."""

    def __init__(self, handler: "Handler", verb: str, body: bytes):
        super().__init__(handler, verb)
        scheme = "https" if handler.encrypted else "http"
        self._base_url = f"{scheme}://{handler.headers.get('Host', handler.emulator.address)}"
        self._full_url = self._base_url + handler.path
        self._parsed_url = urllib.parse.urlparse(self._full_url)
        self.body = body
        kind = self.get_header("Content-Type", "") or ""
        if kind.startswith("application/json") and body and "upload_id" not in self.query:
            self._data = json.loads(body)
        elif kind.startswith("multipart/related"):
            self._data = _multipart(body, kind)
        else:
            self._data = body

    def option(self, name: str) -> str | None:
        """The first value of a query parameter."""
        return self.query.get(name, [None])[0]


def _multipart(body: bytes, kind: str) -> dict[str, Any]:
    boundary = re.search(r'boundary="?([^";]+)', kind)
    assert boundary, kind
    parts = body.split(b"--" + boundary[1].encode())[1:-1]
    (_, metadata), (head, content) = (part[2:-2].split(b"\r\n\r\n", 1) for part in parts)
    content_type = re.search(rb"content-type: *(\S+)", head, re.IGNORECASE)
    return {
        "meta": json.loads(metadata),
        "content": content,
        "content-type": content_type[1].decode() if content_type else "application/octet-stream",
    }


class Reply(server.Response):
    """A reply that is held until faults had their say."""

    def parts(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body."""
        content = self._content.encode() if isinstance(self._content, str) else bytes(self._content)
        return int(self.status), dict(self._headers), content


class Handler(server.RequestHandler):
    """One connection: CONNECT and TLS, the log, faults, and the calls of the store under a stricter protocol."""

    protocol_version = "HTTP/1.1"
    emulator: Emulator
    encrypted = False

    def __init__(self, *arguments: Any):
        http.server.BaseHTTPRequestHandler.__init__(self, *arguments)

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:
            self.close_connection = True  # the client went away

    def finish(self) -> None:
        try:
            super().finish()
            self.connection.close()
        except OSError:
            pass

    def do_CONNECT(self) -> None:  # noqa: N802  (the base class's naming)
        self.send_response(200)
        self.end_headers()
        self.connection: socket.socket = self.emulator.tls.wrap_socket(self.connection, server_side=True)
        self.rfile = self.connection.makefile("rb")
        self.wfile = self.connection.makefile("wb", buffering=0)
        self.encrypted, self.close_connection = True, False

    def do_GET(self) -> None:  # noqa: N802
        self._serve("GET")

    def do_POST(self) -> None:  # noqa: N802
        self._serve("POST")

    def do_PUT(self) -> None:  # noqa: N802
        self._serve("PUT")

    def do_DELETE(self) -> None:  # noqa: N802
        self._serve("DELETE")

    def do_PATCH(self) -> None:  # noqa: N802
        self._serve("PATCH")

    def _serve(self, verb: str) -> None:
        address = urllib.parse.urlsplit(self.path)
        query = {key: values[0] for key, values in urllib.parse.parse_qs(address.query).items()}
        expected = int(self.headers.get("Content-Length") or 0)
        headers = {name.lower(): value for name, value in self.headers.items()}
        seen = Seen(verb, urllib.parse.unquote(address.path), query, headers, expected, self.encrypted)
        with self.emulator.lock:
            self.emulator.requests.append(seen)
            faults = {fault.kind: fault for fault in self.emulator.faults if fault.takes(seen)}
            for fault in faults.values():
                fault.hits += 1
        if "cut_upload" in faults:
            self._keep_half(seen, self.rfile.read(expected // 2))
            return self._abort()
        body = server._read_raw_data(self) or b""
        if "status" in faults:
            status = int(faults["status"].value)
            return self._send(seen, status, *_error(status, "test@example.com does not have access to it."))
        with self.emulator.lock:
            status, reply_headers, content = self._answer(verb, body)
        if "wrong_crc32c" in faults:
            content = re.sub(rb'("crc32c": ")[^"]*', rb"\1AAAAAA==", content)
        if "damaged" in faults and content:
            content = content[:-1] + bytes([content[-1] ^ 1])
        if "no_reply" in faults:
            return self._abort()
        self._send(seen, status, reply_headers, content, faults.get("slow"), cut="cut_reply" in faults)

    def _answer(self, verb: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        request, reply = Request(self, verb, body), Reply(self)
        try:
            self._dispatch(verb, request, reply)
        except RefusalError as refusal:
            return refusal.status, *_error(refusal.status, refusal.message)
        status, headers, content = reply.parts()
        if status == 404:
            headers, content = _error(404, self._missing(request))
        return status, headers, content

    def _dispatch(self, verb: str, request: Request, reply: Reply) -> None:
        stricter = {
            objects.get: self._get,
            objects.download: self._download,
            objects.ls: self._list,
            objects.upload_partial: self._chunk,
            objects.delete: self._checked(objects.delete),
            objects.insert: self._checked(objects.insert),
        }
        for pattern, handlers in server.HANDLERS:
            match = re.fullmatch(pattern, request.path)
            if match and verb in handlers:
                request.set_match(match)
                if handlers[verb] in stricter:
                    return stricter[handlers[verb]](request, reply)
                return handlers[verb](request, reply, self.emulator.store)
        raise RefusalError(501, f"the emulator does not know {verb} {request.path}")

    def _missing(self, request: Request) -> str:
        bucket = request.params["bucket_name"]
        if self.emulator.store.get_bucket(bucket) is None:
            return "The specified bucket does not exist."
        return f"No such object: {bucket}/{request.params.get('object_id', '')}"

    def _name(self, request: Request) -> str:
        metadata = request.data.get("meta", request.data) if isinstance(request.data, dict) else {}
        return str(request.params.get("object_id") or request.option("name") or metadata.get("name"))

    def _check(self, request: Request) -> None:
        """Preconditions; on what is not there, only those of an upload count."""
        live = self.emulator.store.objects.get(request.params["bucket_name"], {}).get(self._name(request))
        generation = int(live["generation"]) if live else 0
        if live and request.option("generation") not in (None, str(generation)):
            raise RefusalError(404, f"No such object: {request.params['bucket_name']}/{self._name(request)}")
        wanted, unwanted = request.option("ifGenerationMatch"), request.option("ifGenerationNotMatch")
        if (live or request.method in ("POST", "PUT")) and (
            (wanted is not None and int(wanted) != generation) or (unwanted is not None and int(unwanted) == generation)
        ):
            raise RefusalError(412, "At least one of the pre-conditions you specified did not hold.")

    def _checked(self, function: Any) -> Any:
        def run(request: Request, reply: Reply) -> None:
            self._check(request)
            function(request, reply, self.emulator.store)

        return run

    def _get(self, request: Request, reply: Reply) -> None:
        if request.option("alt") == "media":
            return self._download(request, reply)
        self._checked(objects.get)(request, reply)

    def _download(self, request: Request, reply: Reply) -> None:
        self._check(request)
        bucket, name = request.params["bucket_name"], request.params["object_id"]
        try:
            resource, data = self.emulator.store.get_file_obj(bucket, name), self.emulator.store.get_file(bucket, name)
        except NotFound:
            raise RefusalError(404, self._missing(request)) from None
        reply["X-Goog-Generation"] = resource["generation"]
        reply["X-Goog-Stored-Content-Length"] = str(len(data))
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.get_header("Range", ""))
        if wanted:
            first, last = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
            if first >= len(data):
                raise RefusalError(416, "The requested range cannot be satisfied.")
            reply.status = http.HTTPStatus.PARTIAL_CONTENT
            reply["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            data = data[first : last + 1]
        else:
            reply["X-Goog-Hash"] = f"crc32c={resource['crc32c']},md5={resource['md5Hash']}"
        reply.write_file(data, content_type="application/octet-stream")

    def _list(self, request: Request, reply: Reply) -> None:
        try:
            bucket = request.params["bucket_name"]
            files, folders = self.emulator.store.get_file_list(
                bucket, request.option("prefix"), request.option("delimiter")
            )
        except NotFound:
            raise RefusalError(404, "The specified bucket does not exist.") from None
        entries = [("items", item) for item in files] + [("prefixes", folder) for folder in folders]
        start = int(request.option("pageToken") or 0)
        stop = start + min(int(request.option("maxResults") or self.emulator.page_size), self.emulator.page_size)
        page: dict[str, Any] = {"kind": "storage#objects"}
        for kind, entry in entries[start:stop]:
            page.setdefault(kind, []).append(entry)
        if stop < len(entries):
            page["nextPageToken"] = str(stop)
        reply.json(page)

    def _keep_half(self, seen: Seen, body: bytes) -> None:
        """What a service has of a chunk whose connection was cut: whole multiples of 256 KiB."""
        session = seen.query.get("upload_id")
        span = re.match(r"bytes (\d+)-", seen.headers.get("content-range", ""))
        if session and span:
            with self.emulator.lock:
                kept = self.emulator.sessions.setdefault(session, bytearray())
                kept += body[len(kept) - int(span[1]) :]
                del kept[len(kept) // QUANTUM * QUANTUM :]

    def _chunk(self, request: Request, reply: Reply) -> None:
        """A chunk of a resumable upload, or the question how much there is."""
        emulator, session = self.emulator, request.option("upload_id") or ""
        if session in emulator.completed:  # the reply was lost, and the client asks or sends again
            return reply.json(emulator.completed[session])
        if session not in emulator.store.resumable:
            raise RefusalError(404, "No such upload session.")
        kept = emulator.sessions.setdefault(session, bytearray())
        span = re.fullmatch(r"bytes (?:\*|(\d+)-(\d+))/(\*|\d+)", request.get_header("Content-Range", "") or "")
        start = int(span[1] or len(kept)) if span else 0
        total = None if span and span[3] == "*" else int(span[3]) if span else len(request.body)
        if start > len(kept):
            raise RefusalError(400, f"the chunk begins at {start}, but {len(kept)} bytes are there")
        kept += request.body[len(kept) - start :]
        if total is None or len(kept) < total:
            if request.body and len(request.body) % QUANTUM:
                raise RefusalError(400, f"{len(request.body)} bytes are no multiple of {QUANTUM}")
            reply.status = objects.GoogleHTTPStatus.RESUME_INCOMPLETE
            if kept:
                reply["Range"] = f"bytes=0-{len(kept) - 1}"
            return
        self._finish_upload(request, reply, session, bytes(kept))

    def _finish_upload(self, request: Request, reply: Reply, session: str, data: bytes) -> None:
        resource = self.emulator.store.get_resumable_file_obj(session)
        request.params["object_id"] = resource["name"]
        self._check(request)
        announced = re.search(r"crc32c=([^,]+)", request.get_header("X-Goog-Hash", "") or "")
        actual = base64.b64encode(google_crc32c.value(data).to_bytes(4, "big")).decode()
        if (announced and announced[1] != actual) or (resource["crc32c"] or actual) != actual:
            raise RefusalError(400, f"Provided CRC32C doesn't match calculated CRC32C {actual!r}.")
        resource |= {"size": str(len(data))}
        self.emulator.store.create_file(
            resource["bucket"], resource["name"], data, objects._checksums(data, resource), session
        )
        self.emulator.completed[session] = resource
        reply.json(resource)

    def _send(
        self,
        seen: Seen,
        status: int,
        headers: dict[str, str],
        content: bytes,
        slow: Fault | None = None,
        cut: bool = False,
    ) -> None:
        seen.status = status
        self.send_response_only(status, None if status != 308 else "Resume Incomplete")
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        half = len(content) // 2
        self.wfile.write(content[:half])
        if cut:
            return self._abort()
        if slow:
            time.sleep(slow.value)
        self.wfile.write(content[half:])

    def _abort(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
        self.rfile.close()
        self.wfile.close()
        self.connection.close()


def _error(status: int, message: str) -> tuple[dict[str, str], bytes]:
    body = {"error": {"code": status, "message": message, "errors": [{"message": message, "domain": "global"}]}}
    return {"Content-Type": "application/json"}, json.dumps(body).encode()
