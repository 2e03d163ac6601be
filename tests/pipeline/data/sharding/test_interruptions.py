"""Killed anywhere and started again with the same command, the sharder gives the bytes of an unbroken run."""

import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.helpers.places import ROOT

KILLS = 20
# Many small units, each a little slow, so that a kill finds work in every stage.
DRIVER = """
import sys, time
from pipeline.data.sharding import encode_unit as encode
from pipeline.data.sharding import packing
from pipeline.data.corpora import base
from pipeline.data.format.settings import ShardConfig
from pipeline.data.sharding.sharder import Sharder
base.UNIT_BYTES, encode.BATCH_CHARACTERS, encode.SEGMENT_TOKENS = 20_000, 5_000, 3_000
source, output, tokenizer, workers = sys.argv[1:]
for module, name in ((encode.UnitEncoder, "run"), (packing.Packing, "tail")):
    def slow(*arguments, do=getattr(module, name)):
        time.sleep(0.02)
        return do(*arguments)
    setattr(module, name, slow)
from pipeline.data.sharding import stages
whole = stages.write_shard
def slow_shard(file, *arguments):
    crc = whole(file, *arguments)
    time.sleep(0.03)
    return crc
stages.write_shard = slow_shard
config = ShardConfig(corpus="text", name="t", tokenizer=tokenizer, shards=12, context=32, validation_fraction=0.1)
print("begun", flush=True)
Sharder(config, source, output, int(workers)).shard()
"""


def start(source, output, tokenizer, workers):
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, source, output, tokenizer, str(workers)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "begun\n", process.stderr.read()
    return process


def children(pid):
    path = pathlib.Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in path.read_text().split()] if path.exists() else []


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    dice = random.Random(5)
    for number in range(400):
        words = [
            dice.choice(["cat", "dog", " café", "\n", "the", "don't", "x9"]) for _ in range(dice.randrange(40, 400))
        ]
        (folder / f"{number:03}.txt").write_text(" ".join(words))
    return str(folder)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_twenty_kills_change_no_byte(tmp_path, source, small_tokenizer, digests):
    began = time.monotonic()
    assert start(source, str(tmp_path / "whole"), small_tokenizer, 2).wait(timeout=120) == 0
    seconds = time.monotonic() - began
    expected = digests(tmp_path / "whole")
    dice = random.Random(7)
    kills = runs = 0
    kills_while_writing = 0
    output, code = tmp_path / "killed-0", None
    while kills < KILLS or code != 0:  # the manifest alone is no end: a kill after it leaves the work folder
        process = start(source, str(output), small_tokenizer, dice.choice([1, 2, 3]))
        if kills < KILLS:
            time.sleep(dice.uniform(0.02, 0.6) * seconds)
            family = children(process.pid) if process.poll() is None else []
            written = len(list(output.glob("*.tfrecord")))
            if process.poll() is None and kill(dice.choice(family) if family and dice.random() < 0.3 else process.pid):
                kills += 1
                kills_while_writing += 0 < written < 13
        code = process.wait(timeout=120)
        assert code in (0, 1, -signal.SIGKILL), process.stderr.read()
        wait_until_gone(family)
        if code == 0:
            assert digests(output) == expected
            runs += 1
            if kills < KILLS:
                output = tmp_path / f"killed-{runs}"
    assert digests(output) == expected
    assert kills_while_writing, "no kill hit the writing of shards"


def kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def wait_until_gone(pids):
    """Workers notice that their parent died; nothing of it runs on."""
    deadline = time.monotonic() + 20
    while any(is_running(pid) for pid in pids):
        assert time.monotonic() < deadline, f"workers {pids} still run"
        time.sleep(0.02)


def is_running(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_killed_worker_ends_the_run_with_a_sentence_and_the_next_run_finishes(tmp_path, source, small_tokenizer):
    process = start(source, str(tmp_path / "out"), small_tokenizer, 2)
    while not children(process.pid):
        time.sleep(0.01)
    os.kill(children(process.pid)[0], signal.SIGKILL)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "a worker ended by signal SIGKILL: is there enough memory?" in complaint.splitlines()[-1]
    again = start(source, str(tmp_path / "out"), small_tokenizer, 2)
    assert again.wait(timeout=60) == 0, again.stderr.read()


def test_finished_units_are_not_done_again(tmp_path, source, small_tokenizer):
    process = start(source, str(tmp_path / "out"), small_tokenizer, 1)
    work = tmp_path / "out" / ".unfinished"
    while len(list(work.glob("unit-*.run"))) < 5:
        time.sleep(0.005)
    process.kill()
    process.wait()
    before = {path.name: path.stat().st_mtime_ns for path in work.glob("unit-*.run")}
    again = start(source, str(tmp_path / "out"), small_tokenizer, 1)
    while len(list(work.glob("unit-*.run"))) < len(before) + 3:
        time.sleep(0.005)
    after = {path.name: path.stat().st_mtime_ns for path in work.glob("unit-*.run")}
    assert {name: after[name] for name in before} == before
    assert again.wait(timeout=60) == 0


def test_two_runs_at_once_are_refused(tmp_path, source, small_tokenizer):
    first = start(source, str(tmp_path / "out"), small_tokenizer, 1)
    while not (tmp_path / "out" / ".unfinished" / "plan.json").exists():
        time.sleep(0.01)
    second = start(source, str(tmp_path / "out"), small_tokenizer, 1)
    assert second.wait(timeout=60) == 1
    assert "another process is writing this data set" in second.stderr.read()
    assert first.wait(timeout=60) == 0


def test_damaged_unfinished_work_is_done_again(tmp_path, source, small_tokenizer, digests):
    """A power cut may leave a run file that has its name and not its bytes, a killed worker on Beam a folder."""
    assert start(source, str(tmp_path / "whole"), small_tokenizer, 2).wait(timeout=60) == 0
    process = start(source, str(tmp_path / "out"), small_tokenizer, 1)
    work = tmp_path / "out" / ".unfinished"
    while len(list(work.glob("unit-*.run"))) < 3:
        time.sleep(0.005)
    process.kill()
    process.wait()
    unit = sorted(work.glob("unit-*.run"))[0]
    unit.write_bytes(unit.read_bytes()[:-9])
    (work / ".partial-12345678").mkdir()
    (work / ".partial-12345678" / ".partial-87654321").touch()
    assert start(source, str(tmp_path / "out"), small_tokenizer, 2).wait(timeout=60) == 0
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")
