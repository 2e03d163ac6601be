"""Flags, exit codes and streams, shared by every command line."""

import errno
import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from pipeline.errors import disk_fault
from tests.helpers.places import ROOT


def test_wheels_that_would_abort_are_named_by_every_command(tmp_path):
    """TensorFlow is not imported: it would end the process, and say why to a file that ends with it."""
    (tmp_path / "tensorflow.py").write_text("import os\nos.abort()\n")
    code = """
from pipeline import cli
from pipeline.devices import wheels
wheels.installed = {"tensorflow-tpu": "2.20.0", "libtpu": "0.0.52"}.get
cli.run(cli.import_tensorflow)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=path(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(
        "error: tensorflow-tpu 2.20.0 aborts beside libtpu 0.0.52; .venv/bin/pip install libtpu==0.0.24"
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


WORK = """
import sys
from pipeline import cli
def main(output):
    print("begins")
    with open(output, "w", encoding="utf-8") as file:
        assert file.fileno() > 2, "what is printed would get into it"
        for i in range(100):
            print("é" * 1000)
        file.write("done")
    print("ends", file=sys.stderr)
cli.run(main)
"""


def worked(tmp_path, redirection):
    """Runs a command with a shell's redirections; asserts that its work is done, and returns its code and stderr."""
    script, output = tmp_path / "work.py", tmp_path / "output"
    script.write_text(WORK, encoding="utf-8")
    command = f"set -o pipefail; {sys.executable} {script} {output} {redirection}"
    done = subprocess.run(
        ["bash", "-c", command], stderr=subprocess.PIPE, text=True, check=False, timeout=60, env=path(tmp_path)
    )
    assert output.read_text() == "done", done.stderr
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("redirection", "code", "printed"),
    [
        ("| head -1 > /dev/null", 1, "stdout: Broken pipe; the work continues without it\nends\n"),
        ("> /dev/full", 1, "stdout: No space left on device; the work continues without it\nends\n"),
        ("> /dev/full 2>&1", 1, ""),
        ("2>&1 | true", 1, ""),
        ("2> /dev/full > /dev/null", 0, ""),
        (">&-", 0, "ends\n"),
        (">&- 2>&-", 0, ""),
        ("<&- >&- 2>&-", 0, ""),
    ],
)
def test_what_cannot_be_printed_costs_no_work_and_is_one_line(tmp_path, redirection, code, printed):
    assert worked(tmp_path, redirection) == (code, printed)


def test_a_shared_pipe_that_is_full_for_a_while_loses_nothing(tmp_path):
    """Non-blocking belongs to the pipe, not to the process: whoever shares it may have set it."""
    (tmp_path / "work.py").write_text(WORK, encoding="utf-8")
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    command = [sys.executable, "work.py", "output"]
    with (
        subprocess.Popen(command, cwd=tmp_path, stdout=writer, env=path(tmp_path)) as process,
        open(reader, "rb") as pipe,
    ):
        os.close(writer)
        printed = pipe.read(1)
        time.sleep(0.3)  # for what fits into the pipe, a third of it all
        printed += pipe.read()
    assert process.returncode == 0 and len(printed) == len("begins\n") + 100 * len(("é" * 1000 + "\n").encode())


def test_a_character_that_the_encoding_lacks_is_escaped_and_json_stays_json(tmp_path):
    figures = {"× 𝄞 é": "\udcff"}
    code = f"""
import json, sys
from pipeline import cli
cli.run(lambda: print(json.dumps({figures!a}, ensure_ascii=False)))
"""
    for encoding in ("ascii", "utf-8", "latin-1"):
        environment = path(tmp_path) | {"PYTHONIOENCODING": encoding}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=environment)
        assert json.loads(done.stdout.decode(encoding)) == figures


def test_evaluation_keeps_what_nobody_reads(tiny_run_dir, tmp_path):
    """As of `pipeline.evaluate … | head`, whose reader is gone when the figures come."""
    run = shutil.copytree(tiny_run_dir, tmp_path / "run")
    (tmp_path / "text.txt").write_text("the cat sat on the mat and the dog sat on the log " * 9)
    command = f"{sys.executable} -m pipeline.evaluate --run_dir={run} --text={tmp_path}/text.txt | true"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (1, "stdout: Broken pipe; the work continues without it\n")
    (kept,) = run.glob("evaluation-*.json")
    assert json.loads(kept.read_text())["figures"]["nats_per_token"] > 0


def test_disk_faults_are_told_from_mistakes():
    import tensorflow as tf

    assert disk_fault(OSError(errno.ENOSPC, "No space left on device", "a/b")) == "a/b: No space left on device"
    assert disk_fault(OSError(errno.EDQUOT, "Disk quota exceeded")) == "Disk quota exceeded"
    full = tf.errors.ResourceExhaustedError(
        None, None, "{{function_node x}} run/metrics.jsonl; No space left on device"
    )
    assert disk_fault(full) == "run/metrics.jsonl: No space left on device"
    for mistake in (
        OSError(errno.ENOENT, "No such file or directory"),
        tf.errors.ResourceExhaustedError(None, None, "OOM when allocating"),
        ValueError("No space left on device"),
    ):
        assert disk_fault(mistake) is None
