"""pytest --quick leaves out what is slow and nothing else."""

import re
import subprocess
import sys

import pytest

from tests.helpers.places import ROOT


@pytest.mark.parametrize("workers", [[], ["-n1"]])
def test_what_imports_keras_or_starts_a_process_is_skipped(workers):
    files = ["tests/models/test_config.py", "tests/models/test_gpt2.py", "tests/test_quick.py"]
    command = [sys.executable, "-m", "pytest", "--quick", "-rs", *workers, *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    reasons = set(re.findall(r"--quick: .*", done.stdout))
    assert {"--quick: imports keras", "--quick: starts a process"} <= reasons
    assert re.search(r"[1-9]\d* passed", done.stdout), done.stdout
