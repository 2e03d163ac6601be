"""Fixtures for gs:// paths, in this process and in one where TensorFlow's own client speaks to the emulator."""

import concurrent.futures
import dataclasses
import multiprocessing
import os

import pytest


@pytest.fixture(scope="session")
def _gcs_server(tmp_path_factory):
    from tests.helpers.gcs_emulator import Emulator

    with Emulator(tmp_path_factory.mktemp("gcs")) as emulator:
        yield emulator


@pytest.fixture
def gcs(_gcs_server, monkeypatch):
    """An Emulator with one bucket, ``corpus``; gs:// paths of this process go there, and waits are short."""
    from pipeline.storage import gcs_client

    _gcs_server.reset()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", _gcs_server.environment["STORAGE_EMULATOR_HOST"])
    quick = dataclasses.replace(gcs_client.TIMEOUTS, first_wait=0.01, longest_wait=0.05, give_up=10, silence=5)
    monkeypatch.setattr(gcs_client, "TIMEOUTS", quick)
    return _gcs_server


def _enter(environment):
    os.environ.update(environment)


@pytest.fixture(scope="session")
def _gcs_process(_gcs_server):
    spawn = multiprocessing.get_context("spawn")
    environment = _gcs_server.environment
    with concurrent.futures.ProcessPoolExecutor(1, spawn, _enter, (environment,)) as executor:
        yield executor


@pytest.fixture
def on_gcs(gcs, _gcs_process):
    """Calls a function of a test module in a process whose gs:// paths, TensorFlow's too, go to ``gcs``.

    TensorFlow reads the environment at its first gs:// path, hence a separate process.
    """

    def call(function, *arguments, **options):
        return _gcs_process.submit(function, *arguments, **options).result(timeout=120)

    return call
