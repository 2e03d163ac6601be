"""Run directories of every kind."""

import math

import pytest

from tests.helpers import made_up_runs


@pytest.fixture
def make_run(tmp_path):
    return lambda name, steps, **options: made_up_runs.write(tmp_path / name, steps, **options)


@pytest.fixture
def kinds(make_run):
    """A run with skipped updates, one that was resumed on another slice, and one of one step."""
    nan = make_run(
        "nan",
        range(1, 11),
        loss=lambda step: math.nan if step == 5 else 2 + 5 / step,
        incidents=[{"step": 5, "reason": "loss or gradient not finite", "loss": "nan", "grad_norm": "nan"}],
        samples="=== step 5 ===\n<script>alert(1)</script>\n\n",
    )
    evaluated = {"validation.nats_per_token": 3.0, "validation.perplexity": 20.1, "validation.bits_per_byte": 1.1}
    resumed = make_run(
        "resumed",
        range(1, 11),
        tokens_per_s=lambda step: 1e4 if step < 6 else 8e4,
        more=lambda step: {"seconds.step": (step - 1) % 5, **(evaluated if step == 10 else {})},
    )
    return [nan, resumed, make_run("one", [1])]
