"""A connection to the emulated Cloud Storage: HTTP, TLS after CONNECT, the log of requests, and the faults."""

import http.server
import re
import socket
import struct
import time
import urllib.parse
from typing import Any

from gcp_storage_emulator import server

from tests.helpers.gcs_calls import QUANTUM, Calls, error
from tests.helpers.gcs_emulator import Emulator, Fault, Seen

ABORT = struct.pack("ii", 1, 0)  # SO_LINGER of 0 s: closing sends RST instead of an orderly end


class Connection(server.RequestHandler):
    """One connection: CONNECT and TLS, the log and the faults."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or every reply waits for an acknowledgement
    emulator: Emulator
    encrypted = False

    def __init__(self, *arguments: Any):
        http.server.BaseHTTPRequestHandler.__init__(self, *arguments)

    def handle(self) -> None:
        try:
            super().handle()
        except (OSError, ValueError):
            self.close_connection = True  # the client went away, or a fault closed it

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
            self._keep_half(seen, self._read_body(expected // 2))
            return self._abort()
        body = self._read_body(expected)
        if "kept_half" in faults:
            kept = self._keep_half(seen, body[: expected // 2])
            return self._send(seen, 308, {"Range": f"bytes=0-{kept - 1}"}, b"")
        if "status" in faults:
            status = int(faults["status"].value)
            return self._send(seen, status, *error(status, "test@example.com does not have access to it."))
        with self.emulator.lock:
            status, reply_headers, content = Calls(self.emulator).answer(self, verb, body)
        if "wrong_crc32c" in faults:
            content = re.sub(rb'("crc32c": ")[^"]*', rb"\1AAAAAA==", content)
        if "damaged" in faults and content:
            content = content[:-1] + bytes([content[-1] ^ 1])
        if "no_reply" in faults:
            return self._abort()
        self._send(seen, status, reply_headers, content, faults.get("slow"), cut="cut_reply" in faults)

    def _read_body(self, count: int) -> bytes:
        """Reads ``count`` bytes of the body; a chunked one, which TensorFlow sends, is read to the end of a chunk."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":  # it overrides Content-Length (RFC 9112)
            return self.rfile.read(count)
        body = bytearray()
        whole = count == int(self.headers.get("Content-Length") or 0)
        while whole or len(body) < count:
            size = int(self.rfile.readline(), 16)
            body += self.rfile.read(size)
            self.rfile.readline()
            if size == 0:
                break
        return bytes(body)

    def _keep_half(self, seen: Seen, body: bytes) -> int:
        """Keeps whole multiples of 256 KiB of a cut chunk, as the service does; returns the number of bytes kept."""
        span = re.match(r"bytes (\d+)-", seen.headers.get("content-range", ""))
        if span is None:
            return 0
        with self.emulator.lock:
            kept = self.emulator.sessions.setdefault(seen.query["upload_id"], bytearray())
            kept += body[len(kept) - int(span[1]) :]
            del kept[len(kept) // QUANTUM * QUANTUM :]
            return len(kept)

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
        phrase = "Resume Incomplete" if status == 308 else http.HTTPStatus(status).phrase
        lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in headers.items())]
        head = "\r\n".join([*lines, f"Content-Length: {len(content)}", "", ""]).encode()
        reply, middle = head + content, len(head) + len(content) // 2 if content else len(head) // 2
        if cut:
            self.wfile.write(reply[:middle])
            return self._abort()
        if slow:
            self.wfile.write(reply[:middle])
            time.sleep(slow.value)
            reply = reply[middle:]
        self.wfile.write(reply)

    def _abort(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
        self.rfile.close()
        self.wfile.close()
        self.connection.close()
