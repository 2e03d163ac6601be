"""The settings that a sweep varies: every combination, samples that a seed fixes, and refusals that name the flag."""

import math

import pytest

from pipeline.errors import UserError
from tools.sweep import axes
from tools.sweep.axes import Axis


@pytest.mark.parametrize(
    ("text", "name", "values"),
    [
        ("Adafactor.learning_rate=[1e-3,3e-4]", "Adafactor.learning_rate", (1e-3, 3e-4)),
        ("model=[algpt2, gpt2]", "train.model", ("algpt2", "gpt2")),
        ("ALGPT2.embedding=[64,None]", "ALGPT2.embedding", (64, None)),
        ("train.profile_steps=[(2,3),'a,b']", "train.profile_steps", ((2, 3), "a,b")),
    ],
)
def test_a_grid_needs_no_quotes(text, name, values):
    assert axes.grid_axis(text) == Axis(name, values)


def test_every_combination_once_in_order():
    grid = [Axis("a.x", (1, 2)), Axis("a.y", ("u", "v"))]
    combinations = axes.combine([{"a.z": 0}, {"a.z": 9}], grid, [], count=1, seed=0, seeds=3)
    assert len(combinations) == len({tuple(cell.items()) for cell in combinations}) == 2 * 2 * 2 * 3
    assert combinations[0] == {"a.z": 0, "a.x": 1, "a.y": "u", "train.seed": 0}
    assert combinations[-1] == {"a.z": 9, "a.x": 2, "a.y": "v", "train.seed": 2}
    assert axes.combine([], [], [], count=1, seed=0, seeds=0) == [{}]


def test_more_cells_than_anyone_trains_are_refused_at_once():
    grid, sampled = [Axis("a.x", (1, 2, 3))], [axes.sample_axis("a.y=int(1,9)")]
    with pytest.raises(UserError, match="--seeds 1,000,000: 1,000,000 cells; expected at most 10,000"):
        axes.combine([], [], [], count=1, seed=0, seeds=10**6)
    with pytest.raises(UserError, match=r"--random 1,000,000,000,000 × --grid 3 × --seeds 2: 6,000,000,000,000 cells"):
        axes.combine([], grid, sampled, count=10**12, seed=0, seeds=2)
    assert len(axes.combine([], grid, sampled, count=1000, seed=0, seeds=3)) == 9000


def test_samples_lie_in_their_range_and_a_seed_fixes_them():
    sampled = [axes.sample_axis(text) for text in ("a.x=log(1e-4,1e-2)", "a.y=int(2,5)", "a.z=uniform(-1,1)")]
    first = axes.combine([], [], sampled, count=400, seed=7, seeds=0)
    assert first == axes.combine([], [], sampled, count=400, seed=7, seeds=0)
    assert first != axes.combine([], [], sampled, count=400, seed=8, seeds=0)
    assert {cell["a.y"] for cell in first} == {2, 3, 4, 5}
    assert all(1e-4 <= cell["a.x"] <= 1e-2 and -1 <= cell["a.z"] <= 1 for cell in first)
    below = sum(cell["a.x"] < 1e-3 for cell in first) / len(first)
    assert abs(below - 0.5) < 0.1, "half of the logarithms lie below their middle"
    assert math.isclose(sum(cell["a.z"] for cell in first) / len(first), 0, abs_tol=0.1)


def test_a_list_is_a_cell_a_line(tmp_path):
    file = tmp_path / "cells.jsonl"
    file.write_text('{"model": "gpt2", "GPT2.layers": 2}\n\n{"seed": 4}\n')
    assert axes.read_list(str(file)) == [{"train.model": "gpt2", "GPT2.layers": 2}, {"train.seed": 4}]
    file.write_text('{"seed": 4}\n[1]\n')
    with pytest.raises(UserError, match=r"cells.jsonl:2: expected a JSON object"):
        axes.read_list(str(file))


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (axes.grid_axis, "model"),
        (axes.grid_axis, "model=algpt2"),
        (axes.grid_axis, "model=[]"),
        (axes.sample_axis, "a.x=log(0,1)"),
        (axes.sample_axis, "a.x=log(1e-2,1e-4)"),
        (axes.sample_axis, "a.x=normal(0,1)"),
        (axes.sample_axis, "a.x=log(a,b)"),
        (axes.sample_axis, "a.x=log(1,1e400)"),
        (axes.sample_axis, "a.x=int(0,inf)"),
        (axes.sample_axis, "a.x=uniform(nan,1)"),
    ],
)
def test_what_is_no_axis_is_refused_by_its_flag(read, text):
    with pytest.raises(UserError, match=r"--(grid|sample)="):
        read(text)
