"""Workers do every task once, hand back what went wrong, and never outlive their parent."""

import os
import pathlib
import subprocess
import sys
import time

import pytest

from tests.helpers.places import ROOT

HEADER = """
import os, signal, sys, time
from pipeline.data.sharding.worker_pool import Pool
from pipeline.errors import UserError
"""


def run(script, timeout=60):
    """Runs a script in a process without TensorFlow's threads, since workers are forked."""
    return subprocess.run(
        [sys.executable, "-c", HEADER + script], cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False
    )


@pytest.mark.parametrize("workers", [1, 3])
def test_every_task_is_done_once_and_tasks_are_drawn_late(workers):
    done = run(f"""
drawn = 0
def tasks():
    global drawn
    for n in range(50):
        drawn += 1
        yield n
seen = []
with Pool(lambda n: n * n, {workers}) as pool:
    for task, result in pool.run(tasks()):
        seen.append((task, result))
        assert drawn <= len(seen) + {workers} + 1, (drawn, len(seen))
assert sorted(seen) == [(n, n * n) for n in range(50)]
print("fine")
""")
    assert done.stdout == "fine\n", done.stderr


def test_a_worker_is_replaced_after_its_lifetime():
    done = run("""
with Pool(lambda n: os.getpid(), 2, lifetime=3) as pool:
    results = dict(pool.run(range(20)))
    alive = len(pool._workers)
lives = [list(results.values()).count(pid) for pid in set(results.values())]
assert sorted(results) == list(range(20)) and alive == 2, (results, alive)
assert max(lives) == 3 and len(lives) >= 7, lives
print("fine")
""")
    assert done.stdout == "fine\n", done.stderr


def test_workers_are_no_more_than_tasks_and_than_the_machine_bears():
    done = run("""
from pipeline.data.sharding import worker_pool as pools
with Pool(lambda n: n, 10**6) as pool:
    assert sorted(result for _, result in pool.run(range(3))) == [0, 1, 2]
    assert len(pool._workers) <= 3, len(pool._workers)
os.sched_getaffinity = lambda process: {0}
with Pool(lambda n: n, 10**30) as pool:
    assert len(list(pool.run(range(50)))) == 50
    assert len(pool._workers) <= pools.MOST_WORKERS, len(pool._workers)
print("fine")
""")
    assert done.stdout == "fine\n", done.stderr


def test_a_users_mistake_stays_one_and_a_defect_keeps_its_traceback():
    done = run("""
def fail(kind):
    raise kind("what happened")
for kind in (UserError, OSError, KeyError):
    try:
        with Pool(fail, 2) as pool:
            list(pool.run([kind, kind]))
    except Exception as error:
        print(type(error).__name__, str(error).splitlines()[0])
        assert kind is not KeyError or "in fail" in str(error)
""")
    assert done.stdout.splitlines() == [
        "UserError what happened",
        "OSError what happened",
        "RuntimeError KeyError: 'what happened'",
    ], done.stderr


def test_a_killed_worker_is_told():
    done = run("""
def do(n):
    if n == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return n
try:
    with Pool(do, 2) as pool:
        list(pool.run(range(10)))
except RuntimeError as error:
    print(error)
""")
    assert done.stdout == "a worker ended by signal SIGKILL: is there enough memory?\n", done.stderr


def test_leaving_early_leaves_no_worker():
    done = run("""
with Pool(lambda n: time.sleep(n) or os.getpid(), 2) as pool:
    pid = next(iter(pool.run([0, 60, 60])))[1]
try:
    os.kill(pid, 0)
except ProcessLookupError:
    print("gone")
""")
    assert done.stdout == "gone\n", done.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_workers_die_with_their_parent():
    script = r"""
def do(n):
    os.write(1, b"%d\n" % os.getpid())  # in one piece, where three workers print at once
    time.sleep(60)
with Pool(do, 3) as pool:
    list(pool.run([1] * 3))
"""
    process = subprocess.Popen([sys.executable, "-c", HEADER + script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    pids = [int(process.stdout.readline()) for _ in range(3)]
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def alive(pid):
    try:
        os.kill(pid, 0)
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, ProcessLookupError):
        return False
