"""What users install on another Python is enough to make shards, train, evaluate, generate and export.

An environment takes minutes and two gigabytes, so ``make test-pythons`` runs this and ``make test`` skips it.
"""

import os
import shutil
import subprocess

import pytest

from tests.helpers.places import ROOT
from tools import quickstart

PYTHONS = os.environ.get("TEST_PYTHONS", "").split()
RUN = f"--run_dir={quickstart.RUN}"
STEPS = ("--gin_param=train.steps=4", "--gin_param=train.warmup_steps=1")
COMMANDS = (
    *quickstart.COMMANDS[:-1],
    (*quickstart.COMMANDS[-1], *STEPS),
    ("pipeline.evaluate", RUN, f"--data={quickstart.DATA}"),
    ("pipeline.generate", RUN, "--prompt=def ", "--max_tokens=8"),
    ("pipeline.export", RUN, "--format=saved_model", "--output=exported"),
    ("tools.doctor",),
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHONS, reason="installs TensorFlow once for each Python: make test-pythons"),
]


@pytest.fixture
def environment(request, tmp_path):
    """The Python of a new environment with requirements.txt; it is removed after the test."""
    asked = shutil.which(request.param)
    if asked is None or subprocess.run([asked, "-c", ""], capture_output=True, check=False).returncode:
        pytest.skip(f"{request.param} is not here, or does not start")
    folder = tmp_path / "environment"
    subprocess.run([asked, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    install = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile")
    subprocess.run([python, *install, f"--requirement={ROOT / 'requirements.txt'}"], check=True)
    yield python
    shutil.rmtree(folder)


@pytest.mark.parametrize("environment", PYTHONS or [None], indirect=True)
def test_what_users_install_is_enough(environment, tmp_path):
    variables = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "TF_XLA_FLAGS")}
    variables |= {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error::DeprecationWarning:pipeline"}
    for command in COMMANDS:
        done = subprocess.run(
            [environment, "-m", *command], cwd=tmp_path, env=variables, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (command, done.stdout[-2000:], done.stderr[-2000:])
        assert "Traceback" not in done.stderr and "DeprecationWarning" not in done.stderr, (command, done.stderr)
    assert "ok       python" in done.stdout, done.stdout
