"""The schedules against their definitions, step by step."""

import dataclasses
import subprocess
import sys

import keras
import numpy as np
import optax
import pytest

from pipeline.config.train_config import TrainConfig, schedule_note
from pipeline.errors import UserError
from pipeline.optimizers.schedules import KINDS, Schedule


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("warmup", [0, 1, 10])
def test_numbers_and_tensors_agree(kind, warmup):
    schedule = Schedule(kind=kind, steps=100, warmup_steps=warmup, final_fraction=0.1)
    for step in (0, 1, 8, 9, 10, 50, 99, 100, 1000):
        number = schedule(step)
        tensor = schedule(keras.ops.cast(step, "float32"), keras.ops)
        assert float(tensor) == pytest.approx(number, abs=1e-6)
        assert float(schedule(np.float32(step), np)) == pytest.approx(number, abs=1e-6)
        assert 0.0 <= number <= 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_warmup_rises_from_a_first_update_that_counts(kind):
    schedule = Schedule(kind=kind, steps=100, warmup_steps=10)
    assert [schedule(step) for step in range(10)] == pytest.approx([(step + 1) / 10 for step in range(10)])


@pytest.mark.parametrize("kind", KINDS)
def test_without_warmup_the_first_update_has_the_full_rate(kind):
    assert Schedule(kind=kind, steps=7)(0) == 1.0


def test_linear_decay_agrees_with_optax_and_wastes_no_update():
    schedule = Schedule(kind="linear", steps=100, warmup_steps=10, final_fraction=0.25)
    reference = optax.schedules.linear_schedule(1.0, 0.25, 90, transition_begin=10)
    for step in range(10, 120):
        assert schedule(step) == pytest.approx(float(reference(step)), abs=1e-6)
    assert Schedule(kind="linear", steps=100, warmup_steps=10)(99) == pytest.approx(1 / 90)


def test_cosine_agrees_with_optax():
    schedule = Schedule(kind="cosine", steps=100, warmup_steps=10, final_fraction=0.1)
    reference = optax.schedules.cosine_decay_schedule(1.0, 90, alpha=0.1)
    for step in range(10, 120):
        assert schedule(step) == pytest.approx(float(reference(step - 10)), abs=1e-6)


def test_inverse_square_root_halves_at_four_times_the_warmup():
    schedule = Schedule(kind="inverse_sqrt", steps=1000, warmup_steps=10)
    assert schedule(9) == 1.0
    assert schedule(39) == pytest.approx(0.5)
    assert schedule(999) == pytest.approx(0.1)


def test_inverse_square_root_without_a_warmup_is_said_to_fall_at_once():
    settings = TrainConfig(
        model="gpt2", optimizer="sgd", steps=90_000, global_batch=1, microbatch=1, schedule="inverse_sqrt"
    )
    assert "the learning rate of step 1,000 is 0.032 of the highest; with train.warmup_steps=N it" in schedule_note(
        settings
    )
    assert Schedule(kind="inverse_sqrt", steps=90_000)(999) == pytest.approx(0.0316, abs=1e-4)
    assert "step 1,000 is" in schedule_note(dataclasses.replace(settings, steps=-1))
    assert "step 9 is 0.33" in schedule_note(dataclasses.replace(settings, steps=9))
    for quiet in ({"warmup_steps": 10_000}, {"warmup_fraction": 0.1}, {"schedule": "constant"}):
        assert schedule_note(dataclasses.replace(settings, **quiet)) is None


def test_constant_stays():
    schedule = Schedule(kind="constant", steps=20, warmup_steps=4)
    assert {schedule(step) for step in range(3, 50)} == {1.0}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "cosin", "steps": 10}, "did you mean 'cosine'"),
        ({"steps": 0}, "steps=0 must be at least 1"),
        ({"steps": 10, "warmup_steps": 11}, "warmup_steps=11 must lie between 0 and steps=10"),
        ({"steps": 10, "final_fraction": 1.5}, "final_fraction=1.5"),
    ],
)
def test_bad_values_are_named(values, message):
    with pytest.raises(UserError, match=message):
        Schedule(**values)


def test_settings_import_no_framework():
    heavy = ("tensorflow", "keras", "numpy")
    code = f"import sys, pipeline.optimizers.config; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
