"""Objects on Cloud Storage: the operations of ``pipeline.storage`` on ``gs://`` paths.

gcs_upload.py uploads files. Replies 408, 429 and 5xx, cut connections and silence are retried with growing, jittered
waits. Errors are those of ``gcs_client.explained``.

Sources: https://cloud.google.com/storage/docs/request-preconditions, …/data-validation.
"""

import base64
import contextlib
from typing import NamedTuple

import requests
from google.api_core import exceptions
from google.auth import exceptions as auth_exceptions
from google.cloud import storage

from pipeline.errors import UnavailableError
from pipeline.storage import gcs_client
from pipeline.storage.gcs_client import blob_of, bucket_of, explained


class Stat(NamedTuple):
    """An object as the service describes it."""

    size: int
    crc32c: int
    generation: int


class Location(NamedTuple):
    """Where a bucket is, in lower case like zones.

    Attributes:
        name: "us-central1", "us" or "nam4", for example.
        kind: "region", "zone", "dual-region" or "multi-region", as the service calls it.
        regions: those that hold all of the data; unknown for a multi-region.
    """

    name: str
    kind: str
    regions: tuple[str, ...]


# The named pairs, https://cloud.google.com/storage/docs/locations; the service describes all others itself.
DUAL_REGIONS = {
    "asia1": ("asia-northeast1", "asia-northeast2"),
    "eur4": ("europe-north1", "europe-west4"),
    "eur5": ("europe-west1", "europe-west2"),
    "eur7": ("europe-west2", "europe-west3"),
    "eur8": ("europe-west3", "europe-west6"),
    "nam4": ("us-central1", "us-east1"),
}
LOCATION_SECONDS = 5


def location(path: str) -> Location | None:
    """Returns where a path's bucket is; None if the account may not see it, or there is no quick answer.

    It needs storage.buckets.get, which a role only for objects lacks.
    """
    try:
        bucket, _ = bucket_of(path)
        bucket.reload(timeout=LOCATION_SECONDS, retry=None)
    except (exceptions.GoogleAPIError, auth_exceptions.GoogleAuthError, requests.RequestException, OSError):
        return None
    name, kind = (bucket.location or "").lower(), bucket.location_type or "region"
    regions = {"region": (name,), "zone": (name, name.rpartition("-")[0])}.get(kind, ())
    if kind == "dual-region":
        regions = DUAL_REGIONS.get(name) or tuple(region.lower() for region in bucket.data_locations or ())
    return Location(name, kind, regions) if name else None


def stat(path: str) -> Stat | None:
    """Size, crc32c and generation of an object, or None if there is none."""
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
    """Bytes of an object, or None if there is none."""
    described = stat(path)
    return None if described is None else described.size


def list_files(directory: str, *, deep: bool = True) -> list[tuple[str, int]] | None:
    """Lists (path, bytes) of the objects under a directory, ``deep`` at any depth, without the markers of folders.

    Returns None if there is nothing, not even a marker; an existing bucket is a directory even if it is empty.
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
    """Whether nothing is at this address or under it."""
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
    """Rejects a missing or read-only bucket, by starting an upload that never sends anything."""
    gcs_client.split(directory)  # its error has the name that the user wrote
    with explained(directory):
        probe = blob_of(directory.rstrip("/") + "/.writable")
        probe.create_resumable_upload_session(if_generation_match=0, **gcs_client.TIMEOUTS.calls)


def read_range(path: str, generation: int, start: int, count: int) -> bytes:
    """Reads bytes start … start+count-1 of one generation; resumes a cut reply where it broke off.

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
    """Reads a small object that others may replace; returns its bytes and generation, (None, 0) for none."""
    while (newest := stat(path)) is not None:
        with contextlib.suppress(FileNotFoundError, exceptions.PreconditionFailed):  # replaced since: read that one
            return read_range(path, newest.generation, 0, newest.size), newest.generation
    return None, 0


def replace_version(path: str, data: bytes, generation: int) -> int | None:
    """Replaces a small object if it still has this generation (0: it does not exist).

    Returns:
        The new generation; None if another writer was first.
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
    """Replaces a small object of any generation."""
    while replace_version(path, data, read_version(path)[1]) is None:
        pass  # another writer came in between


def crc32c_of(blob: storage.Blob) -> int:
    """Returns the crc32c that the service computed."""
    return int.from_bytes(base64.b64decode(blob.crc32c or ""), "big")
