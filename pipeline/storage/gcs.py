"""Objects on Cloud Storage: the operations of ``pipeline.storage`` on ``gs://`` paths.

Uploads of files are in gcs_upload.py. Replies 408, 429 and 5xx, cut connections and silence are retried with growing,
jittered waits. Errors are those of ``gcs_client.explained``.

Sources: https://cloud.google.com/storage/docs/request-preconditions, …/data-validation.
"""

import base64
import contextlib
from typing import NamedTuple

from google.api_core import exceptions
from google.cloud import storage

from pipeline.errors import UnavailableError
from pipeline.storage import gcs_client
from pipeline.storage.gcs_client import blob_of, bucket_of, explained


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
    return Stat(int(blob.size), crc32c_of(blob), int(blob.generation))


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


def crc32c_of(blob: storage.Blob) -> int:
    """Returns the crc32c that the service has computed."""
    return int.from_bytes(base64.b64decode(blob.crc32c or ""), "big")
