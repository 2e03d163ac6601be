"""The calls of Cloud Storage: gcp-storage-emulator's store, and the parts of the protocol that it lacks.

Missing in gcp-storage-emulator 2026.7.19, and done here: preconditions and the generation parameter, 404 and 412 with
the service's words, resumable uploads that are continued (overlapping chunks, the kept bytes of a cut one, a last reply
that was lost), ranges beyond the end, paged listings, empty bodies, and https in the addresses that it returns.
Sources: https://cloud.google.com/storage/docs/json_api/v1 and …/docs/performing-resumable-uploads.
"""

import base64
import http
import json
import re
import urllib.parse
from typing import Any

import google_crc32c
from gcp_storage_emulator import server
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects

from tests.helpers.gcs_emulator import Emulator

QUANTUM = 256 << 10  # every chunk but the last is a multiple of this


class RefusalError(Exception):
    """An error as the service words it."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status, self.message = status, message


class Request(server.Request):
    """A request whose body was read beforehand; empty bodies are bytes too, and multipart bodies keep every byte."""

    def __init__(self, handler: Any, verb: str, body: bytes):
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
        """Returns the first value of a query parameter."""
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
    """A reply that is held back until faults were applied."""

    def parts(self) -> tuple[int, dict[str, str], bytes]:
        """Returns status, headers and body."""
        content = self._content.encode() if isinstance(self._content, str) else bytes(self._content)
        return int(self.status), dict(self._headers), content


class Calls:
    """The calls of the JSON API, with the emulator's lock held."""

    def __init__(self, emulator: Emulator):
        self.emulator, self.store = emulator, emulator.store

    def answer(self, handler: Any, verb: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Does what a request asks for; returns status, headers and body."""
        request, reply = Request(handler, verb, body), Reply(handler)
        try:
            self._dispatch(verb, request, reply)
        except RefusalError as refusal:
            return refusal.status, *error(refusal.status, refusal.message)
        status, headers, content = reply.parts()
        if status == 404:
            headers, content = error(404, self._missing(request))
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
                return handlers[verb](request, reply, self.store)
        raise RefusalError(501, f"the emulator does not know {verb} {request.path}")

    def _missing(self, request: Request) -> str:
        bucket = request.params["bucket_name"]
        if self.store.get_bucket(bucket) is None:
            return "The specified bucket does not exist."
        return f"No such object: {bucket}/{request.params.get('object_id', '')}"

    def _name(self, request: Request) -> str:
        metadata = request.data.get("meta", request.data) if isinstance(request.data, dict) else {}
        return str(request.params.get("object_id") or request.option("name") or metadata.get("name"))

    def _check(self, request: Request) -> None:
        """Checks preconditions; for an object that does not exist, only those of an upload count."""
        live = self.store.objects.get(request.params["bucket_name"], {}).get(self._name(request))
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
            function(request, reply, self.store)

        return run

    def _get(self, request: Request, reply: Reply) -> None:
        if request.option("alt") == "media":
            return self._download(request, reply)
        self._checked(objects.get)(request, reply)

    def _download(self, request: Request, reply: Reply) -> None:
        self._check(request)
        bucket, name = request.params["bucket_name"], request.params["object_id"]
        try:
            resource, data = self.store.get_file_obj(bucket, name), self.store.get_file(bucket, name)
        except NotFound:
            raise RefusalError(404, self._missing(request)) from None
        reply["X-Goog-Generation"] = resource["generation"]
        reply["X-Goog-Stored-Content-Length"] = str(len(data))
        byte_range = re.fullmatch(r"bytes=(\d+)-(\d*)", request.get_header("Range", ""))
        if byte_range:
            first, last = int(byte_range[1]), min(int(byte_range[2] or len(data)), len(data) - 1)
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
            files, folders = self.store.get_file_list(bucket, request.option("prefix"), request.option("delimiter"))
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

    def _chunk(self, request: Request, reply: Reply) -> None:
        """Takes a chunk of a resumable upload, or answers how many bytes there are."""
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
                raise RefusalError(400, f"{len(request.body)} bytes are not a multiple of {QUANTUM}")
            reply.status = objects.GoogleHTTPStatus.RESUME_INCOMPLETE
            if kept:
                reply["Range"] = f"bytes=0-{len(kept) - 1}"
            return
        self._finish_upload(request, reply, session, bytes(kept))

    def _finish_upload(self, request: Request, reply: Reply, session: str, data: bytes) -> None:
        resource = self.store.get_resumable_file_obj(session)
        request.params["object_id"] = resource["name"]
        self._check(request)
        announced = re.search(r"crc32c=([^,]+)", request.get_header("X-Goog-Hash", "") or "")
        actual = base64.b64encode(google_crc32c.value(data).to_bytes(4, "big")).decode()
        if (announced and announced[1] != actual) or (resource["crc32c"] or actual) != actual:
            raise RefusalError(400, f"Provided CRC32C doesn't match calculated CRC32C {actual!r}.")
        resource |= {"size": str(len(data))}
        self.store.create_file(resource["bucket"], resource["name"], data, objects._checksums(data, resource), session)
        self.emulator.completed[session] = resource
        reply.json(resource)


def error(status: int, message: str) -> tuple[dict[str, str], bytes]:
    """Returns headers and body of a refusal."""
    body = {"error": {"code": status, "message": message, "errors": [{"message": message, "domain": "global"}]}}
    return {"Content-Type": "application/json"}, json.dumps(body).encode()
