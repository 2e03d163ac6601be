"""Shared by all tests: virtual CPU devices, which TensorFlow must be told of before it starts."""

import os
import pathlib
import subprocess
import sys
from collections import Counter

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("WANDB_MODE", "offline")
VIRTUAL_DEVICES = 4
pytest_plugins = ("tests.gcs_fixture",)
ROOT = pathlib.Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items):
    """Puts the files with most slow tests first: left to the end, one of several workers would be alone with them."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="session")
def virtual_devices():
    """Four virtual CPU devices, as names for tf.distribute.MirroredStrategy."""
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    if tf.config.get_logical_device_configuration(cpu) is None:
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * VIRTUAL_DEVICES)
    return [f"CPU:{i}" for i in range(VIRTUAL_DEVICES)]


@pytest.fixture(scope="session", autouse=True)
def _virtual_devices_before_tensorflow_starts(virtual_devices):
    """A test that runs first must not start TensorFlow with a single device."""


@pytest.fixture
def run_module():
    """Runs ``python -m MODULE ARGUMENTS`` from the project's root; returns the completed process with its text."""

    def run(module: str, *arguments: str, timeout: float = 600, **options):
        return subprocess.run(
            [sys.executable, "-m", module, *map(str, arguments)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            **options,
        )

    return run


@pytest.fixture
def refused(run_module):
    """Runs a module that must refuse its input: exit code 2, and one line on stderr, which is returned."""

    def run(module: str, *arguments: str, **options) -> str:
        done = run_module(module, *arguments, **options)
        assert done.returncode == 2, done.stdout + done.stderr
        lines = done.stderr.strip().splitlines()
        assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
        return lines[0]

    return run


@pytest.fixture(scope="session")
def tiny_run_dir(tmp_path_factory):
    """The run of tests/tiny_run.py, for tests that read it."""
    from tests import tiny_run

    path = tmp_path_factory.mktemp("tiny_run")
    tiny_run.write(path)
    return path
