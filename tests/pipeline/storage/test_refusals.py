"""Buckets, credentials and services that do not work are told in one sentence, before any work and in time."""

import re
import threading
import time

import google.auth
import pytest
from google.auth import exceptions as auth_exceptions

from pipeline import storage
from pipeline.errors import UnavailableError, UserError
from tests.helpers.stored import LARGE, POST, PUT, SHARD

OPERATIONS = {
    "size": lambda path: storage.size(path),
    "list": lambda path: storage.list_files(path),
    "read": lambda path: storage.read_bytes(path),
    "check": lambda path: storage.check_writable(path),
    "publish": lambda path: storage.publish_bytes(b"x", path),
}


def sentence(error):
    text = str(error.value)
    assert "\n" not in text and len(text) < 400
    return text


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_bucket_that_does_not_exist_is_named(gcs, operation):
    with pytest.raises(UserError, match="there is no bucket gs://absent") as error:
        OPERATIONS[operation]("gs://absent/data/a")
    assert sentence(error).startswith("gs://absent/data/a: ")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_bucket_that_refuses_is_named(gcs, operation):
    gcs.inject("status", path="/o", times=99, value=403)
    expected = (
        r"refuses access with 403 \(test@example\.com does not have access to it\); .* Object User on gs://corpus$"
    )
    with pytest.raises(UserError, match=expected) as error:
        OPERATIONS[operation]("gs://corpus/data/a")
    sentence(error)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_credentials_that_are_not_accepted_are_told(gcs, operation):
    gcs.inject("status", path="/o", times=99, value=401)
    with pytest.raises(UserError, match="no usable Google Cloud credentials") as error:
        OPERATIONS[operation]("gs://corpus/data/a")
    sentence(error)


def test_a_bucket_that_may_be_read_but_not_written_is_refused_before_any_work(gcs):
    gcs.inject("status", verb=POST, times=99, value=403)
    assert storage.list_files("gs://corpus") == []
    with pytest.raises(UserError, match="refuses access with 403"):
        storage.check_writable("gs://corpus/data")


def test_the_check_leaves_nothing(gcs):
    storage.check_writable("gs://corpus/data")
    storage.check_writable("gs://corpus")
    assert gcs.objects() == {}


@pytest.mark.parametrize("path", ["gs://", "gs:///a", "gs://Upper/a", "gs://a b/c", "gs://x/a"])
def test_what_cannot_be_a_bucket_is_refused_without_asking(gcs, path):
    for operation in OPERATIONS.values():
        with pytest.raises(UserError, match="cannot be a bucket; expected gs://BUCKET/FOLDER"):
            operation(path)
    with pytest.raises(UserError, match=f"^{re.escape(path)}: "):
        storage.check_writable(path)
    assert gcs.requests == []


@pytest.mark.parametrize(("kind", "value"), [("status", 503), ("no_reply", 0)])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_service_that_stays_down_is_given_up_in_time(gcs, timeouts, operation, kind, value):
    timeouts(give_up=0.3)
    fault = gcs.inject(kind, path="/o", times=10**6, value=value)
    start = time.monotonic()
    with pytest.raises(UnavailableError, match=r"given up after 0\.3 s of retries") as error:
        OPERATIONS[operation]("gs://corpus/data/a")
    assert time.monotonic() - start < 5 and fault.hits > 2
    assert "gs://corpus/data/a" in sentence(error)


def test_an_upload_that_is_cut_for_ever_is_given_up(gcs, publish, timeouts):
    timeouts(give_up=0.3)
    gcs.inject("cut_upload", verb=PUT, times=10**6)
    with pytest.raises(UnavailableError, match="given up"):
        publish(LARGE)
    assert gcs.objects() == {}


def test_no_connection_is_told(gcs, timeouts, monkeypatch):
    timeouts(give_up=0.3)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    with pytest.raises(UnavailableError, match="given up after"):
        storage.size(SHARD)


@pytest.fixture
def real_credentials(gcs, monkeypatch, tmp_path):
    """The library looks for credentials, as it does without an emulator, and finds none."""
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    monkeypatch.setenv("HOME", str(tmp_path))
    return monkeypatch


def test_missing_credentials_are_told_with_what_to_do(real_credentials):
    def none(**_):
        raise auth_exceptions.DefaultCredentialsError("Your default credentials were not found. See somewhere.")

    real_credentials.setattr(google.auth, "default", none)
    with pytest.raises(
        UserError, match=r"credentials \(Your default credentials were not found\).*gcloud auth"
    ) as error:
        storage.size(SHARD)
    sentence(error)


def test_a_key_file_that_is_missing_is_named(real_credentials):
    real_credentials.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere/key.json")
    with pytest.raises(UserError, match=r"/nowhere/key\.json"):
        storage.list_files("gs://corpus/a")


def test_the_search_for_credentials_is_bounded(real_credentials, timeouts):
    timeouts(credentials=0.2)
    real_credentials.setattr(google.auth, "default", lambda **_: threading.Event().wait(60))
    start = time.monotonic()
    with pytest.raises(UserError, match=r"looking for them took over 0\.2 s"):
        storage.size(SHARD)
    assert time.monotonic() - start < 5
