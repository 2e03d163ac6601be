"""The coordinate check looks at what the model computes, and its exponents are those of theory."""

import math

import numpy as np
import pytest
import tensorflow as tf

import models
from tools import coordinate_check

SMALL = {"layers": 2, "heads": 2, "width": 32, "context": 16, "vocabulary_size": 300}


@pytest.mark.parametrize("config", [models.GPT2Config(**SMALL), models.ALGPT2Config(**SMALL, embedding=8)])
def test_the_parts_are_those_of_the_model(config):
    model, tokens = models.build(config, seed=3), tf.constant([[1, 2, 3, 4], [5, 6, 7, 8]])
    parts = coordinate_check.activations(model, tokens)
    np.testing.assert_allclose(parts["logits"], model(tokens), rtol=1e-5, atol=1e-6)
    branches = [value for name, value in parts.items() if name.startswith(("attention", "MLP"))]
    assert len(branches) == 2 * config.layers
    np.testing.assert_allclose(
        model.finish(parts["embedding"] + sum(branches)), parts["features"], rtol=1e-4, atol=1e-5
    )


def test_an_exponent_is_the_slope_of_the_logarithms():
    assert coordinate_check.exponent({64: 3 * 64**0.5, 128: 3 * 128**0.5, 512: 3 * 512**0.5}) == pytest.approx(0.5)
    assert math.isnan(coordinate_check.exponent({64: 0.0, 128: 1.0}))


def test_gpt2s_fixed_deviation_lets_branches_grow_with_the_width(run_module, small_data):
    """At the start, logits of a normalised stream grow as its root; the branches of kernels at 0.02 in proportion."""
    flags = ("--gin_file=quickstart.gin", "--gin_param=train.model='gpt2'", "--gin_param=GPT2.layers=1")
    flags += ("--gin_param=GPT2.heads=2", "--gin_param=GPT2.width=32", "--gin_param=GPT2.context=64")
    done = run_module("tools.coordinate_check", *flags, f"--data={small_data}", "--widths=32,128", "--steps=2")
    assert done.returncode == 0, done.stderr
    start, change = done.stdout.split("change after 2 updates")
    powers = {line[2:26].strip(): float(line.split()[-1]) for line in start.splitlines() if line.startswith("  ")}
    assert powers["embedding"] == pytest.approx(0, abs=0.05) and powers["logits"] == pytest.approx(0.5, abs=0.1)
    assert powers["attention 1"] == pytest.approx(1, abs=0.2) and powers["MLP 1"] == pytest.approx(1, abs=0.2)
    assert "with the width change: " in change and "MLP 1 (+" in change


def test_mistakes_are_one_sentence(refused, small_data):
    command = ("tools.coordinate_check", "--gin_file=quickstart.gin", f"--data={small_data}")
    assert "did you mean 96?" in refused(*command, "--widths=100,200")
    assert "two widths or more" in refused(*command, "--widths=128")
    assert "--data" in refused("tools.coordinate_check", "--gin_file=quickstart.gin")
    assert "nearest: 32 or 64" in refused(*command, "--gin_param=ALGPT2.context=48")
