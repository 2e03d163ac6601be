"""Losses of a model at several widths and rates: how they are made and stored, and what the page reads off them."""

import dataclasses
import json
import math

import pytest

from tests.helpers.places import ROOT
from tools.study.store import Store
from tools.transfer.curves import BASE, MOMENTUM, RULE, WITH, WITHOUT, parabola, parts

STORED = Store.load(ROOT / "docs" / "transfer.json")
WIDEST = 512
FACTOR, LOST = 1.5, 0.02  # bounds: of the best rate, and of the loss in nats per token


def carried_over(base, own):
    """By what factor the best rates of two curves differ, and the nats per token that the first's costs the second."""
    base, own = parabola(base), parabola(own)
    return math.exp(abs(math.log(base.best_rate / own.best_rate))), own.lost_at(base.best_rate)


def curve(title, value):
    return next(c for part in parts() if part.title == title for c in part.curves if c.value == value)


def stored(title, value):
    return curve(title, value).points(STORED)


@pytest.mark.parametrize(
    ("part", "width"), [*((WITH, width) for width in (192, 256, 384, WIDEST)), (MOMENTUM, WIDEST)], ids=str
)
def test_the_best_rate_carries_over_with_the_rule(part, width):
    factor, lost = carried_over(stored(part, BASE.width), stored(part, width))
    assert factor < FACTOR and lost < LOST


def test_without_the_rule_it_does_not():
    factor, lost = carried_over(stored(WITHOUT, BASE.width), stored(WITHOUT, WIDEST))
    assert factor > FACTOR and lost > LOST


def test_the_rule_is_the_recipe_with_a_base_width_and_nothing_else():
    plain, ruled = (curve(title, 256) for title in (WITHOUT, WITH))
    common = {cell.rate: cell.overrides() for cell in plain.cells}
    for cell in ruled.cells:
        if cell.rate in common:
            expected = common[cell.rate] | {"Adafactor.base_width": BASE.width}
            assert cell.optimizer == RULE and cell.overrides() == expected
    assert len({cell.rate for cell in ruled.cells} & common.keys()) >= 2


def test_the_committed_page_is_what_the_command_writes(run_module, tmp_path):
    pytest.importorskip("matplotlib", reason="requirements-plots.txt is not installed")
    (tmp_path / "transfer.json").write_text(STORED.path.read_text())
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


def test_a_page_without_the_rules_losses_is_refused(refused, tmp_path):
    (tmp_path / "transfer.json").write_text(json.dumps(STORED.content | {"cells": {}}))
    error = refused("tools.transfer", f"--output={tmp_path}/transfer.md", f"--run_dir={tmp_path}/none", "--norun")
    assert "the losses of 'With the rule' are missing" in error
    assert [path.name for path in tmp_path.iterdir()] == ["transfer.json"]


def test_parts_differ_in_the_setting_that_they_name():
    """Cells of a part have everything but the rate and that setting in common; batches keep the tokens."""
    fields = {"width": {"width"}, "layers": {"layers"}, "sequences a step": {"batch"}, "tokens": {"tokens"}}
    for part in parts():
        differing = set()
        for one in part.curves:
            for cell in one.cells:
                names = {field.name for field in dataclasses.fields(cell)} - {"rate"}
                differing |= {name for name in names if getattr(cell, name) != getattr(part.curves[0].cells[0], name)}
        assert differing - {"optimizer"} == fields[part.setting], part.title
        assert all(getattr(cell, *fields[part.setting]) == one.value for one in part.curves for cell in one.cells)


def test_a_page_that_cannot_be_written_is_refused_first(refused, tmp_path):
    assert "its folder does not exist" in refused("tools.transfer", f"--output={tmp_path}/none/a.md")
    assert "expected a file NAME.md" in refused("tools.transfer", f"--output={tmp_path}/a.txt")
    (tmp_path / "a.json").write_text("{")
    assert "a.json is not JSON" in refused("tools.transfer", f"--output={tmp_path}/a.md")
