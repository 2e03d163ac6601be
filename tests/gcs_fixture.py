"""The fixture ``gcs``: an emulator of Cloud Storage, empty and without faults at the start of every test."""

import dataclasses

import pytest


@pytest.fixture(scope="session")
def _gcs_server(tmp_path_factory):
    from tests.gcs_emulator import Emulator

    with Emulator(tmp_path_factory.mktemp("gcs")) as emulator:
        yield emulator


@pytest.fixture
def gcs(_gcs_server, monkeypatch):
    """An Emulator with one bucket, ``corpus``; gs:// paths of this process go there, and waits are short."""
    from pipeline.data import gcs_client

    _gcs_server.reset()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", _gcs_server.environment["STORAGE_EMULATOR_HOST"])
    quick = dataclasses.replace(gcs_client.PATIENCE, first_wait=0.01, longest_wait=0.05, give_up=10, silence=5)
    monkeypatch.setattr(gcs_client, "PATIENCE", quick)
    return _gcs_server
