"""The ledger: a cell has one worker at a time, on one disk and among machines that share a bucket only."""

import concurrent.futures
import os
import subprocess
import sys

import pytest

from tools.sweep import ledger as ledgers
from tools.sweep.ledger import DONE, FAILED, Ledger

FACTS = {"overrides": {"train.seed": 1}}


@pytest.fixture(params=["local", "gs"])
def make_ledger(request, tmp_path, monkeypatch):
    """Ledgers of one sweep; under gs:// each argument is a machine whose locks no other sees."""
    if request.param == "gs":
        request.getfixturevalue("gcs")

    def make(machine="a"):
        if request.param == "local":
            return Ledger(str(tmp_path / "ledger"))
        (tmp_path / machine).mkdir(exist_ok=True)
        monkeypatch.setattr(ledgers.tempfile, "gettempdir", lambda: str(tmp_path / machine))
        return Ledger("gs://corpus/sweep/ledger")

    return make


def test_one_claim_at_a_time_and_none_after_the_end(make_ledger):
    first, second = make_ledger("a"), make_ledger("b")
    claim = first.claim("cell", FACTS)
    assert claim is not None
    assert second.claim("cell", FACTS) is None and first.claim("cell", FACTS) is None
    first.end(claim, DONE, result={"validation": 3.5})
    assert second.claim("cell", FACTS) is None
    assert second.entries()["cell"]["result"] == {"validation": 3.5}
    assert second.entries()["cell"]["overrides"] == FACTS["overrides"]


def test_a_failed_cell_is_claimed_again_on_request_only(make_ledger):
    ledger = make_ledger()
    ledger.end(ledger.claim("cell", FACTS), FAILED, reason="why")
    assert ledger.claim("cell", FACTS) is None
    assert ledger.claim("cell", FACTS, again=(FAILED,)).entry["attempt"] == 2


def test_a_cell_that_is_let_go_is_free_for_all(make_ledger):
    first, second = make_ledger("a"), make_ledger("b")
    first.release(first.claim("cell", FACTS))
    assert second.claim("cell", FACTS).entry["attempt"] == 2


def test_of_many_at_once_one_claims_each_cell(make_ledger):
    workers = [make_ledger(f"machine{number}") for number in range(4)]
    keys = [f"cell{number}" for number in range(10)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        claims = list(pool.map(lambda worker: [key for key in keys if worker.claim(key, FACTS)], workers))
    assert sorted(key for claimed in claims for key in claimed) == keys


def test_a_killed_workers_claim_is_free_at_once_where_its_lock_is_seen(make_ledger, tmp_path):
    ledger = make_ledger("a")
    folder = "gs://corpus/sweep/ledger" if ledger._remote else str(tmp_path / "ledger")
    program = (
        "import os, signal; from tools.sweep.ledger import Ledger\n"
        f"assert Ledger({folder!r}).claim('cell', {FACTS!r}); os.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = os.environ | {"TMPDIR": str(tmp_path / "a")}
    done = subprocess.run([sys.executable, "-c", program], env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    claim = ledger.claim("cell", FACTS)
    assert claim is not None and claim.entry["attempt"] == 2


def test_a_run_that_outlives_its_worker_keeps_the_claim(tmp_path):
    ledger = Ledger(str(tmp_path))
    claim = ledger.claim("cell", FACTS)
    with subprocess.Popen(["sleep", "60"], pass_fds=(claim.lock,)) as run:
        os.close(claim.lock)  # what the kernel does when the worker is killed
        assert ledger.claim("cell", FACTS) is None
        run.kill()
        run.wait()
    assert ledger.claim("cell", FACTS) is not None


def test_another_machines_claim_is_dead_when_it_is_not_renewed(gcs, tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(ledgers.time, "monotonic", lambda: now[0])
    workers = {}
    for machine in "abc":
        (tmp_path / machine).mkdir()
        monkeypatch.setattr(ledgers.tempfile, "gettempdir", lambda machine=machine: str(tmp_path / machine))
        workers[machine] = Ledger("gs://corpus/sweep/ledger")
    claim = workers["a"].claim("cell", FACTS)
    claim.renewed = now[0]
    assert workers["b"].claim("cell", FACTS) is None
    for _ in range(12):  # two leases long the owner renews, in time
        now[0] += ledgers.LEASE_SECONDS / 6
        assert workers["a"].renew(claim)
        assert workers["b"].claim("cell", FACTS) is None
    now[0] += ledgers.LEASE_SECONDS + 1
    assert workers["c"].claim("cell", FACTS) is None, "who has just come has not waited for a lease"
    assert workers["b"].claim("cell", FACTS).entry["attempt"] == 2
    assert not workers["a"].renew(claim), "the first is told that it has lost the cell"
