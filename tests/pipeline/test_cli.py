"""What every command line shares."""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_wheels_that_would_abort_are_named_by_every_command(tmp_path):
    """TensorFlow is not imported: it would end the process, and say why to a file that ends with it."""
    (tmp_path / "tensorflow.py").write_text("import os\nos.abort()\n")
    code = """
from pipeline import cli
from pipeline.devices import target
target.installed = {"tensorflow-tpu": "2.20.0", "libtpu": "0.0.52"}.get
cli.run(cli.import_tensorflow)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=path(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(
        "error: tensorflow-tpu 2.20.0 aborts beside libtpu 0.0.52; pip install libtpu==0.0.24"
    )
    assert done.stderr.count("\n") == 1


def test_what_a_failing_import_says_is_shown(tmp_path):
    (tmp_path / "tensorflow.py").write_text("import os\nos.write(2, b'why\\n')\nraise ImportError('no')\n")
    code = "from pipeline import cli\ncli.import_tensorflow()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=path(tmp_path))
    assert done.returncode == 1 and done.stderr.startswith("why\n") and "ImportError: no" in done.stderr


def path(folder):
    """An environment in which Python finds modules in this folder first, and then the project's."""
    return os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
