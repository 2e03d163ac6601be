"""Cells that do not fit are recorded before anything runs, one compilation per program, by the real compiler."""

import pytest

from pipeline.devices import slices
from pipeline.errors import UserError
from pipeline.preflight import tpu_compiler
from tools.sweep import fitting
from tools.sweep.cells import Base, resolve
from tools.sweep.ledger import MISFIT, Ledger

SMALL = ("train.steps=200", "ALGPT2.layers=1", "ALGPT2.heads=2", "ALGPT2.width=16", "ALGPT2.embedding=8")
BASE = Base(gin_files=("quickstart.gin",), gin_params=(*SMALL, "ALGPT2.context=128"), data="", tpu="v3-8")

V3 = slices.find("v3-8")


@pytest.fixture
def cells():
    batches = [{"train.global_batch": 8 * size, "train.microbatch": size} for size in (1, 2**20)]
    return resolve(BASE, [batch | {"train.seed": seed} for batch in batches for seed in (0, 1)])


def test_cells_that_do_not_fit_are_recorded_and_the_others_left(cells, monkeypatch, capsys, tmp_path):
    asked = []

    def answer(cell, piece):
        asked.append(cell.key)
        return len(asked) == 1, "20.00 of 15.48 GiB per core"

    monkeypatch.setattr(fitting, "_preflight", answer)
    ledger = Ledger(str(tmp_path))
    fitting.record_misfits(cells, ledger, V3, ended=[])
    assert asked == [cells[0].key, cells[2].key], "seeds share a program"
    assert {key: entry["state"] for key, entry in ledger.entries().items()} == dict.fromkeys(
        (cells[2].key, cells[3].key), MISFIT
    )
    assert "preflight 2/2  does not fit  20.00 of 15.48 GiB" in capsys.readouterr().out
    fitting.record_misfits(cells, ledger, V3, ended=[cell.key for cell in cells])
    assert len(asked) == 2
    assert ledger.claim(cells[3].key, {}) is None


@pytest.mark.slow
@pytest.mark.usefixtures("forked_children")
def test_the_compiler_is_asked(cells):
    tpu_compiler.require_compiler()
    assert fitting._preflight(cells[0], V3)[0]
    fits, memory = fitting._preflight(cells[2], V3)
    assert not fits and memory.endswith("of 15.48 GiB per core")


def test_where_nothing_can_be_compiled_the_way_around_is_named(monkeypatch):
    """A TPU VM's wheels and the compiler's exclude each other."""
    monkeypatch.setattr(tpu_compiler, "installed", {"tensorflow-tpu": "2.20.0", "libtpu": "0.0.24"}.get)
    with pytest.raises(UserError, match="in an environment of its own, .*; or --nopreflight"):
        fitting.require_compiler()
