"""Sets of wheels that would abort the process are named before anything is imported."""

import pytest

from pipeline.devices import wheels
from pipeline.errors import UserError


def pretend_installed(monkeypatch, **versions):
    monkeypatch.setattr(wheels, "installed", lambda package: versions.get(package.replace("-", "_")))


@pytest.mark.parametrize("libtpu", ["0.0.32.1", "0.0.40", "0.0.52"])
def test_wheels_that_would_abort_are_named_before_the_import(monkeypatch, libtpu):
    pretend_installed(monkeypatch, tensorflow_tpu="2.20.0", libtpu=libtpu)
    with pytest.raises(
        UserError, match=f"tensorflow-tpu 2.20.0 aborts beside libtpu {libtpu}; \\S*pip install libtpu==0.0.24"
    ):
        wheels.check_wheels()


@pytest.mark.parametrize("libtpu", ["0.0.21", "0.0.24"])
def test_wheels_that_work(monkeypatch, libtpu):
    pretend_installed(monkeypatch, tensorflow_tpu="2.20.0", libtpu=libtpu)
    wheels.check_wheels()


def test_other_sets_of_wheels(monkeypatch):
    pretend_installed(monkeypatch, tensorflow="2.21.0", libtpu="0.0.52")
    wheels.check_wheels()  # the preflight's environment
    pretend_installed(monkeypatch, tensorflow_tpu="2.20.0")
    with pytest.raises(UserError, match="needs libtpu"):
        wheels.check_wheels()
    pretend_installed(monkeypatch, tensorflow_tpu="2.20.0", tensorflow="2.20.0", libtpu="0.0.24")
    with pytest.raises(UserError, match="both installed"):
        wheels.check_wheels()
