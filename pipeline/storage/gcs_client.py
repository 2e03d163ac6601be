"""Access to Cloud Storage: credentials, one client per process, timeouts, and readable errors.

Sources: https://cloud.google.com/storage/docs/retry-strategy and google-auth's application default credentials.
"""

import contextlib
import functools
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import google.auth
import google.auth.credentials
import requests
from google.api_core import exceptions, retry
from google.auth import exceptions as auth_exceptions
from google.cloud import storage
from google.cloud.storage.retry import DEFAULT_RETRY

from pipeline.errors import UnavailableError, UserError

BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """Seconds to wait before a call is retried (doubling, jittered), and before it is given up."""

    first_wait: float = 1
    longest_wait: float = 32
    give_up: float = 300
    connect: float = 10
    silence: float = 60  # without a byte from the service
    credentials: float = 30

    @property
    def calls(self) -> dict[str, Any]:
        """Arguments for every library call: its own rule for what to retry, within these bounds."""
        policy: retry.Retry = DEFAULT_RETRY.with_delay(self.first_wait, self.longest_wait, 2)
        return {"retry": policy.with_timeout(self.give_up), "timeout": (self.connect, self.silence)}


TIMEOUTS = Timeouts()


def split(path: str) -> tuple[str, str]:
    """Returns bucket and object name of a ``gs://`` path; UserError if it names no possible bucket."""
    bucket, _, name = path.removeprefix("gs://").partition("/")
    if not BUCKET_NAME.fullmatch(bucket):
        raise UserError(
            f"{path}: {bucket!r} cannot be a bucket; expected gs://BUCKET/FOLDER, with a name in lower case"
        )
    return bucket, name


def bucket_of(path: str) -> tuple[storage.Bucket, str]:
    """Returns a path's bucket, with this process's client, and the object's name."""
    bucket, name = split(path)
    return _client(os.getpid(), os.environ.get("STORAGE_EMULATOR_HOST")).bucket(bucket), name


def blob_of(path: str) -> storage.Blob:
    """Returns the object of a path; UserError if the path is a bare bucket."""
    bucket, name = bucket_of(path)
    if not name:
        raise UserError(f"{path} names a bucket, but an object in it is expected: {path.rstrip('/')}/NAME")
    return bucket.blob(name)


@functools.lru_cache(maxsize=1)
def _client(process: int, emulator: str | None) -> storage.Client:
    """One client, and so one connection pool, per process. No call needs a project, so none is looked up."""
    return storage.Client(project="none", credentials=None if emulator else _credentials())


def _credentials() -> google.auth.credentials.Credentials:
    """The environment's credentials, within a time limit: the search may ask a metadata server, and run gcloud."""
    results: list[Any] = []

    def search() -> None:
        try:
            results.append(google.auth.default(scopes=[SCOPE])[0])
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=search, daemon=True)
    thread.start()
    thread.join(TIMEOUTS.credentials)
    if not results:
        raise auth_exceptions.DefaultCredentialsError(f"looking for them took over {TIMEOUTS.credentials:g} s")
    if isinstance(results[0], Exception):
        raise results[0]
    return results[0]


def is_no_bucket(error: exceptions.GoogleAPICallError) -> bool:
    """Whether a 404 is about the bucket; only the service's message says so."""
    return "specified bucket does not exist" in error.message


@contextlib.contextmanager
def explained(path: str) -> Iterator[None]:
    """Turns the library's errors into one sentence that names the path; PreconditionFailed passes.

    Raises:
        UserError: no such bucket, no access or no credentials.
        UnavailableError: the service failed for longer than ``TIMEOUTS`` allows.
        FileNotFoundError: no such object.
    """
    bucket = "/".join(path.split("/")[:3])
    try:
        yield
    except exceptions.PreconditionFailed:
        raise
    except auth_exceptions.TransportError as error:
        raise UnavailableError(f"{path}: no connection for fetching a token: {_first_line(error)}") from error
    except auth_exceptions.GoogleAuthError as error:
        raise UserError(
            f"{path}: no usable Google Cloud credentials ({_first_line(error)}); on a workstation run "
            "`gcloud auth application-default login`, or name a key file in GOOGLE_APPLICATION_CREDENTIALS"
        ) from error
    except exceptions.NotFound as error:
        if is_no_bucket(error):
            raise UserError(f"{path}: there is no bucket {bucket}; make it, or check the name") from error
        raise FileNotFoundError(f"there is no object {path}") from error
    except (exceptions.Forbidden, exceptions.Unauthorized) as error:
        raise UserError(
            f"{path}: Cloud Storage refuses access with {error.code} ({_first_line(error)}); "
            f"the account needs the role Storage Object User on {bucket}"
        ) from error
    except exceptions.RetryError as error:
        last = _first_line(error.cause or error)
        raise UnavailableError(
            f"{path}: given up after {TIMEOUTS.give_up:g} s of retries, the last time for {last}"
        ) from error
    except (exceptions.GoogleAPICallError, requests.RequestException, ConnectionError) as error:
        raise UnavailableError(f"{path}: {type(error).__name__} {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    """The first sentence or line of the service's or the library's message."""
    message = str(error)
    with contextlib.suppress(AttributeError, KeyError, TypeError, ValueError):  # no reply, or none in JSON
        message = error.response.json()["error"]["message"]  # type: ignore[attr-defined]
    return re.split(r"\n|\. ", message)[0].rstrip(".")
