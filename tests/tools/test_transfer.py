"""Losses of a model at several widths and rates: how they are made and stored, and what the page reads off them."""

import json
import math

import pytest

from pipeline.errors import UserError
from tests.helpers.places import ROOT
from tools.study.results import summary_path
from tools.transfer import __main__ as command
from tools.transfer import page
from tools.transfer.curves import BASE, RULE, WITH, WITHOUT, curves, parabola

STORED = json.loads((ROOT / "docs" / "transfer.json").read_text(encoding="utf-8"))
WIDEST = 512
FACTOR, LOST = 1.5, 0.02  # bounds: of the best rate, and of the loss in nats per token


def carried_over(base, own):
    """By what factor the best rates of two curves differ, and the nats per token that the first's costs the second."""
    base, own = parabola(base), parabola(own)
    return math.exp(abs(math.log(base.best_rate / own.best_rate))), own.lost_at(base.best_rate)


def stored(part, width):
    return next(c.points(STORED["nats_per_token"]) for c in curves() if (c.part, c.width) == (part, width))


@pytest.mark.parametrize("width", [256, WIDEST])
def test_the_best_rate_carries_over_with_the_rule(width):
    factor, lost = carried_over(stored(WITH, BASE.width), stored(WITH, width))
    assert factor < FACTOR and lost < LOST


def test_a_best_rate_that_does_not_carry_over_is_over_the_bounds():
    """The widest's own losses, at half the rates that they were measured at."""
    moved = {rate / 2: loss for rate, loss in stored(WITH, WIDEST).items()}
    factor, lost = carried_over(stored(WITH, BASE.width), moved)
    assert factor > FACTOR and lost > LOST


def test_the_rule_is_the_recipe_with_a_base_width_and_nothing_else():
    plain, ruled = (next(c for c in curves() if (c.part, c.width) == (part, WIDEST)) for part in (WITHOUT, WITH))
    common = {cell.rate: cell.overrides() for cell in plain.cells}
    for cell in ruled.cells:
        if cell.rate in common:
            expected = common[cell.rate] | {"Adafactor.base_width": BASE.width}
            assert cell.optimizer == RULE and cell.overrides() == expected
    assert len({cell.rate for cell in ruled.cells} & common.keys()) >= 2


def test_the_committed_page_is_what_the_command_writes(run_module, tmp_path):
    pytest.importorskip("matplotlib", reason="requirements-plots.txt is not installed")
    (tmp_path / "transfer.json").write_text(json.dumps(STORED))
    done = run_module("tools.transfer", f"--output={tmp_path}/transfer.md", f"--run_dir={tmp_path}/none", "--norun")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "transfer.md").read_text() == (ROOT / "docs" / "transfer.md").read_text()
    picture = (tmp_path / "transfer.svg").read_text()
    for words in ("learning rate", "nats per token", WITH, WITHOUT, *(f"width {w}" for w in (128, 256, WIDEST))):
        assert words in picture


def test_a_parabola_is_found_exactly_and_not_beyond_the_rates():
    loss = lambda rate: 4.2 + 0.3 * math.log(rate / 0.1) ** 2  # noqa: E731
    best = parabola({rate: loss(rate) for rate in (0.32, 0.05, 0.08, 0.16, 0.02)})
    assert (best.best_rate, best.lowest, best.curvature) == pytest.approx((0.1, 4.2, 0.3))
    assert best.lost_at(0.2) == pytest.approx(loss(0.2) - 4.2)
    assert parabola({rate: loss(rate) for rate in (0.11, 0.16, 0.32)}) is None
    assert parabola({rate: -loss(rate) for rate in (0.05, 0.08, 0.16)}) is None
    assert parabola({0.1: 4.0, 0.2: 4.1}) is None and parabola({}) is None


@pytest.fixture
def runs(monkeypatch, tmp_path):
    """Cells end at once, with a loss of their rate; yields those that ran."""
    ran = []

    def run_cells(folder, cells, workers):
        for cell in cells:
            if len(ran) == 3:
                raise SystemExit(143)  # a signal, in the midst of the cells
            ran.append(cell)
            path = summary_path(folder, cell)
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps({"validation": {"nats_per_token": 4 + cell.rate}}))

    class Data:
        fingerprint = STORED["data"]
        corpus = None

    Data.corpus = Data
    monkeypatch.setattr(command, "run_cells", run_cells)
    monkeypatch.setattr(command, "make_data", lambda *_: None)
    monkeypatch.setattr(command.manifest, "load", lambda _: Data)
    return ran


def test_only_what_is_not_stored_is_run_and_what_is_done_is_stored(runs, tmp_path):
    store = tmp_path / "transfer.json"
    cells = command.missing_cells(curves(), {})
    assert [cell.width for cell in cells] == sorted((cell.width for cell in cells), reverse=True)
    stored = {"nats_per_token": {cell.name: 5.0 for cell in cells[4:]}, "data": STORED["data"], "python": "3.11.1"}
    assert command.missing_cells(curves(), stored) == cells[:4]
    with pytest.raises(SystemExit):
        command.measure(tmp_path, cells[:4], stored, store)
    assert runs == cells[:3]
    again = json.loads(store.read_text())
    assert [again["nats_per_token"][cell.name] for cell in cells[:3]] == [4 + cell.rate for cell in runs]
    assert command.missing_cells(curves(), again) == cells[3:4] and again["python"] == "3.11.1"


def test_losses_on_other_texts_are_not_mixed(runs, tmp_path):
    stored = {"data": "other", "python": "3.9.1"}
    with pytest.raises(UserError, match=r"was measured on the texts of CPython 3\.9\.1"):
        command.measure(tmp_path, command.missing_cells(curves(), stored), stored, tmp_path / "a.json")
    assert not runs and not (tmp_path / "a.json").exists()


def test_a_curve_without_a_best_rate_is_no_page(tmp_path):
    nats = {cell.name: 4 + cell.rate for curve in curves() for cell in curve.cells}
    with pytest.raises(UserError, match="width 128 has no best rate between its rates yet"):
        page.write(tmp_path / "transfer.md", STORED | {"nats_per_token": nats}, 0)
    assert not list(tmp_path.iterdir())


def test_a_page_that_cannot_be_written_is_refused_first(refused, tmp_path):
    for output in (tmp_path / "none" / "a.md", tmp_path / "a.txt"):
        assert "expected a file NAME.md in a folder that exists" in refused("tools.transfer", f"--output={output}")
