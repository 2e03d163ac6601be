"""Uploads to Cloud Storage; nothing half-written is ever visible.

An object appears when its last byte has arrived and the service has confirmed the announced crc32c; its report is then
checked again. Uploads carry the precondition that the object does not exist yet.

Sources: https://cloud.google.com/storage/docs/performing-resumable-uploads, …/request-preconditions, …/data-validation.
"""

import base64
import contextlib
import io
import os
from typing import BinaryIO

import google_crc32c
from google.api_core import exceptions
from google.cloud import storage
from google.cloud.storage.exceptions import DataCorruption

from pipeline.errors import UnavailableError, UserError
from pipeline.storage import gcs, gcs_client
from pipeline.storage.gcs_client import blob_of, explained

CHUNK_BYTES = 8 << 20  # held in memory; at most this much is sent again after a cut connection
UPLOAD_ATTEMPTS = 3  # whole uploads, after a lost session or a wrong checksum
DAMAGED = "what arrived has another crc32c than the file"


def upload(local: str, path: str, crc32c: int) -> None:
    """Commits a local file, which stays, as an object; in resumable chunks if it is larger than 8 MiB.

    Its crc32c was computed when it was written, so the service makes no object of other bytes.

    Raises:
        UserError: an object with other bytes exists. One with the same size and crc32c is success.
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
    existing = gcs.stat(path)
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
        if not problem and gcs.crc32c_of(blob) == crc32c:
            return
        existing = gcs.stat(path)  # what the service holds, whatever it replied
        if existing is not None and (existing.size, existing.crc32c) == (count, crc32c):
            return
        if existing is not None and not problem:  # ours, and damaged
            with contextlib.suppress(FileNotFoundError, exceptions.PreconditionFailed), explained(path):
                blob.delete(if_generation_match=existing.generation, **gcs_client.TIMEOUTS.calls)
        problem = problem or DAMAGED
    raise UnavailableError(f"{path}: {problem}, {UPLOAD_ATTEMPTS} times")


def _send(file: BinaryIO, count: int, blob: storage.Blob, crc32c: int) -> str:
    """Uploads once; returns why it must begin again, or an empty string."""
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
