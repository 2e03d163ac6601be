"""Objects on Cloud Storage: the operations of ``pipeline.storage`` on ``gs://`` paths.

Nothing is visible half-written: an object appears when its last byte has arrived and the service has found the crc32c
that was announced, and what it then reports is compared once more. Uploads carry the precondition that there is no
such object yet. Replies 408, 429 and 5xx, cut connections and silence are retried with growing, jittered waits.
Errors are those of ``gcs_client.explained``.

Sources: https://cloud.google.com/storage/docs/performing-resumable-uploads, …/request-preconditions, …/data-validation.
"""

import base64
import contextlib
import io
import os
from typing import BinaryIO, NamedTuple

import google_crc32c
from google.api_core import exceptions
from google.cloud import storage
from google.cloud.storage.exceptions import DataCorruption

from pipeline.errors import UnavailableError, UserError
from pipeline.storage import gcs_client
from pipeline.storage.gcs_client import blob_of, bucket_of, explained

CHUNK_BYTES = 8 << 20  # of an upload: held in memory, and at most this much is sent again after a cut connection
UPLOAD_ATTEMPTS = 3  # whole uploads: after a lost session or a checksum that is not ours
DAMAGED = "what arrived has another crc32c than the file"


class Stat(NamedTuple):
    """An object as the service describes it."""

    size: int
    crc32c: int
    generation: int


def stat(path: str) -> Stat | None:
    """Size, crc32c and generation of an object, or None where there is none."""
    if not gcs_client.split(path)[1]:
        return None
    try:
        with explained(path):
            blob = blob_of(path)
            blob.reload(**gcs_client.TIMEOUTS.calls)
    except FileNotFoundError:
        return None
    return Stat(int(blob.size), _crc32c(blob), int(blob.generation))


def size(path: str) -> int | None:
    """Bytes of an object, or None where there is none."""
    described = stat(path)
    return None if described is None else described.size


def list_files(directory: str, *, deep: bool = True) -> list[tuple[str, int]] | None:
    """Lists (path, bytes) of the objects under a directory, ``deep`` at any depth, without the markers of folders.

    Returns None where there is nothing, not even a marker; a bucket that exists is a directory even if it is empty.
    """
    with explained(directory):
        bucket, prefix = bucket_of(directory.rstrip("/") + "/")
        options = {"fields": "items(name,size),prefixes,nextPageToken", **gcs_client.TIMEOUTS.calls}
        pages = bucket.list_blobs(prefix=prefix, delimiter=None if deep else "/", **options)
        blobs = list(pages)
    if prefix and not blobs and not pages.prefixes:
        return None
    return [(f"gs://{bucket.name}/{blob.name}", int(blob.size)) for blob in blobs if not blob.name.endswith("/")]


def is_empty(path: str) -> bool:
    """Whether there is nothing at this address or under it."""
    with explained(path):
        bucket, prefix = bucket_of(path.rstrip("/") + "/")
        under = bucket.list_blobs(
            prefix=prefix, max_results=2, fields="items(name),nextPageToken", **gcs_client.TIMEOUTS.calls
        )
        return all(blob.name == prefix for blob in under) and size(path.rstrip("/")) is None


def delete_files(directory: str) -> None:
    """Deletes all objects under a directory."""
    for path, _ in list_files(directory) or []:
        with contextlib.suppress(FileNotFoundError), explained(path):
            blob_of(path).delete(**gcs_client.TIMEOUTS.calls)


def check_writable(directory: str) -> None:
    """Refuses a bucket that is missing or not to be written to, by asking for an upload that never sends anything."""
    with explained(directory):
        probe = blob_of(directory.rstrip("/") + "/.writable")
        probe.create_resumable_upload_session(if_generation_match=0, **gcs_client.TIMEOUTS.calls)


def read_range(path: str, generation: int, start: int, count: int) -> bytes:
    """Reads bytes start … start+count-1 of one generation; a reply that is cut is resumed where it broke off.

    Raises:
        google.api_core.exceptions.PreconditionFailed: the object has another generation now.
    """
    with explained(path):
        data = blob_of(path).download_as_bytes(
            start=start,
            end=start + count - 1,
            if_generation_match=generation,
            raw_download=True,
            checksum=None,
            **gcs_client.TIMEOUTS.calls,
        )
    if len(data) != count:
        raise UnavailableError(f"{path}: {len(data)} bytes came from byte {start} on, but {count} are expected")
    return data


def read_version(path: str) -> tuple[bytes | None, int]:
    """Reads a small object that others may replace meanwhile; returns its bytes and generation, (None, 0) for none."""
    while (newest := stat(path)) is not None:
        with contextlib.suppress(FileNotFoundError, exceptions.PreconditionFailed):  # replaced since: read that one
            return read_range(path, newest.generation, 0, newest.size), newest.generation
    return None, 0


def replace_version(path: str, data: bytes, generation: int) -> int | None:
    """Replaces a small object if it still has this generation (0: if there is none).

    Returns:
        The new generation; None where another writer was first.
    """
    with explained(path):
        blob = blob_of(path)
        try:
            blob.upload_from_string(
                data,
                content_type="application/json",
                checksum="crc32c",
                if_generation_match=generation,
                **gcs_client.TIMEOUTS.calls,
            )
            return int(blob.generation)
        except exceptions.PreconditionFailed:
            held, newest = read_version(path)  # our own write, if its reply was lost and it was sent again
            return newest if held == data else None


def replace_bytes(data: bytes, path: str) -> None:
    """Replaces a small object, whatever generation it has."""
    while replace_version(path, data, read_version(path)[1]) is None:
        pass  # another writer came in between


def upload(local: str, path: str, crc32c: int) -> None:
    """Commits a local file, which stays, as an object; by resumable chunks if it is larger than 8 MiB.

    Its crc32c was computed when it was written: the service makes no object of other bytes.

    Raises:
        UserError: there is an object with other bytes. One with the same size and crc32c is success.
    """
    with open(local, "rb") as file:
        _create(file, os.fstat(file.fileno()).st_size, path, crc32c)


def upload_bytes(data: bytes, path: str) -> None:
    """Commits a small object, as ``upload`` does."""
    _create(io.BytesIO(data), len(data), path, google_crc32c.value(data))


def _create(file: BinaryIO, count: int, path: str, crc32c: int) -> None:
    if _same_exists(path, count, crc32c):
        return
    try:
        _send_until_whole(file, count, path, crc32c)
    except exceptions.PreconditionFailed as error:  # another writer, or our own upload whose reply was lost
        if not _same_exists(path, count, crc32c):
            raise UnavailableError(f"{path} was made and deleted by another process during the upload") from error


def _same_exists(path: str, count: int, crc32c: int) -> bool:
    existing = stat(path)
    if existing is not None and (existing.size, existing.crc32c) != (count, crc32c):
        raise UserError(
            f"{path} exists and holds other bytes ({existing.size} with crc32c {existing.crc32c:08x}, not {count} "
            f"with {crc32c:08x}): remove it or choose another --output"
        )
    return existing is not None


def _send_until_whole(file: BinaryIO, count: int, path: str, crc32c: int) -> None:
    problem = ""
    for _ in range(UPLOAD_ATTEMPTS):
        file.seek(0)
        with explained(path):
            blob = blob_of(path)
            problem = _send(file, count, blob, crc32c)
        if not problem and _crc32c(blob) == crc32c:
            return
        existing = stat(path)  # what the service holds, whatever it replied
        if existing is not None and (existing.size, existing.crc32c) == (count, crc32c):
            return
        if existing is not None and not problem:  # ours, and damaged
            with contextlib.suppress(FileNotFoundError, exceptions.PreconditionFailed), explained(path):
                blob.delete(if_generation_match=existing.generation, **gcs_client.TIMEOUTS.calls)
        problem = problem or DAMAGED
    raise UnavailableError(f"{path}: {problem}, {UPLOAD_ATTEMPTS} times")


def _send(file: BinaryIO, count: int, blob: storage.Blob, crc32c: int) -> str:
    """One whole upload; returns why it has to begin again, or an empty string."""
    blob.chunk_size = CHUNK_BYTES
    try:
        blob.upload_from_file(
            file,
            size=count,
            content_type="application/octet-stream",
            checksum="crc32c",
            crc32c_checksum_value=base64.b64encode(crc32c.to_bytes(4, "big")).decode(),
            if_generation_match=0,
            **gcs_client.TIMEOUTS.calls,
        )
    except DataCorruption:  # the library has deleted the object
        return DAMAGED
    except exceptions.BadRequest as error:
        if "crc32c" not in error.message.lower():
            raise
        return DAMAGED
    except exceptions.NotFound as error:
        if gcs_client.is_no_bucket(error):
            raise
        return "the upload session was lost"
    except exceptions.GoogleAPICallError as error:
        if error.code != 410:  # Gone
            raise
        return "the upload session was lost"
    except ValueError as error:  # the service kept less of a chunk than was sent, after which the library cannot resume
        if "unexpected state" not in str(error):
            raise
        return "a chunk was kept only in part"
    return ""


def _crc32c(blob: storage.Blob) -> int:
    return int.from_bytes(base64.b64decode(blob.crc32c or ""), "big")
