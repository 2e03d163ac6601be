"""The benchmark of recipes: rates are tuned until the best is inside of its grid; figures follow from the runs."""

import json
import math
from dataclasses import replace

import pytest

from pipeline.errors import WorkFailedError
from tools.benchmarks import recipe
from tools.study import running
from tools.study.recipes import RECIPES
from tools.study.results import summary_path
from tools.study.store import Store

FINAL = {"scaled": 4.0, "nanogpt": 4.2, "muon": 3.9, "frozen": 5.0}
BEST = {"scaled": 0.32, "nanogpt": 1e-3, "muon": 2e-2, "frozen": 1e-3}  # the first two outside of the grids


@pytest.fixture
def runs(monkeypatch, tmp_path):
    """Cells end at once with a made-up loss, which falls by 0.4 where the tokens double; yields the cells that ran."""
    ran = []

    def run_cells(folder, cells, workers):
        for cell in cells:
            path = summary_path(folder, cell)
            ran.append(cell)
            path.parent.mkdir(parents=True)
            loss = FINAL[cell.optimizer] + abs(math.log2(cell.rate / BEST[cell.optimizer])) + 0.01 * cell.seed
            loss -= 0.4 * math.log2(cell.tokens / recipe.BASE.tokens)
            figures = {"nats_per_token": loss, "bits_per_byte": loss / 3}
            path.write_text(json.dumps({"parameters": 1, "validation": figures}))
            model = {"kind": "GPT2Config", "layers": 2, "heads": 2, "width": 128, "context": 128}
            path.with_name("run.json").write_text(json.dumps({"model": model | {"vocabulary_size": 4096}}))

    monkeypatch.setattr(running, "run_cells", run_cells)
    monkeypatch.setattr(recipe, "make_data", lambda *_: None)
    monkeypatch.setattr(Store, "note_data", lambda *_: None)
    return ran


def test_the_figures_follow_from_the_runs(runs, tmp_path):
    figures = recipe.run(tmp_path)
    for name, optimizer in recipe.CONTENDERS.items():
        assert figures[f"{name}_nats"] == pytest.approx(FINAL[optimizer] + 0.01, abs=0.01)
        assert figures[f"{name}_deviation"] == pytest.approx(0.01)
        assert figures[f"{name}_rate"] == pytest.approx(BEST[optimizer])
    # 0.2 nats are half a doubling; straight lines between 0.5, 0.7 and 1 are exact, as the made-up loss is one
    assert figures["tokens_to_nanogpt"] == pytest.approx(2**-0.5, rel=0.01)
    assert len({cell.name for cell in runs}) == len(runs)
    assert {cell.seed for cell in runs if cell.optimizer == "muon" and cell.rate != 2e-2} == {0}
    assert recipe.run(tmp_path) == figures and len(set(runs)) == len(runs), "a second call runs nothing again"


def test_a_recipe_without_a_best_rate_fails(runs, tmp_path, monkeypatch):
    monkeypatch.setitem(BEST, "scaled", 1e9)
    with pytest.raises(WorkFailedError, match="scaled: no best learning rate from 0.02 to"):
        recipe.run(tmp_path)


def test_the_share_of_tokens_is_bounded_by_what_was_run():
    assert recipe.share_of_tokens({0.5: 4.1, 1.0: 4.0}, 4.2) == 0.5
    assert recipe.share_of_tokens({0.5: 4.1, 1.0: 4.0}, 3.9) == math.inf
    assert recipe.share_of_tokens({0.5: 4.2, 1.0: 4.0}, 4.1) == pytest.approx(0.5**0.5)


def test_contenders_differ_in_their_recipe_only():
    """Same model, data, tokens and batch; the schedule and the optimizer are the recipe's."""
    common = None
    for optimizer in recipe.CONTENDERS.values():
        settings = replace(recipe.BASE, optimizer=optimizer, rate=1e-2).overrides()
        own = {key for key in settings if key.startswith((f"{RECIPES[optimizer].surface}.", "train.optimizer"))}
        rest = {key: settings[key] for key in settings.keys() - own - RECIPES[optimizer].run.keys()}
        common = common or rest
        assert rest == common
