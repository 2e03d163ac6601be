"""Fixtures that publish bytes, and shorten the waits for Cloud Storage."""

import dataclasses

import pytest

from pipeline import storage
from pipeline.storage import gcs_client
from tests.helpers.stored import SHARD, crc


@pytest.fixture
def publish(tmp_path):
    """Publishes bytes by way of a local file, of which nothing is left."""

    def run(data, path=SHARD, crc32c=None):
        local = tmp_path / "partial"
        local.write_bytes(data)
        storage.publish(str(local), path, crc(data) if crc32c is None else crc32c)
        assert not local.exists()

    return run


@pytest.fixture
def timeouts(monkeypatch):
    def change(**seconds):
        monkeypatch.setattr(gcs_client, "TIMEOUTS", dataclasses.replace(gcs_client.TIMEOUTS, **seconds))

    return change


@pytest.fixture(params=["local", "gs"])
def directory(request, tmp_path):
    if request.param == "gs":
        request.getfixturevalue("gcs")
        return "gs://corpus/data"
    (tmp_path / "data").mkdir()
    return str(tmp_path / "data")
