"""Evaluation speed: tokens scored per second against the forward share of a training step.

Uses step.py's 30M model and batch. A forward pass is a third of a training step's FLOPs, so evaluation should process
at least three times as many tokens per second as training; a ratio of 1 means exactly that. Sliding windows of half the
context score half of the tokens that they read, and count what they read. Both take turns, and each one's best turn
counts.
"""

from functools import partial
from typing import Any

import numpy as np

import models
from pipeline.evaluation.likelihood import scorer
from pipeline.evaluation.windows import windows
from tools.benchmarks import step as training

FORWARD_SHARE = 1 / 3
BATCHES = 3  # of evaluation per turn, which then takes about as long as a step


def run() -> dict[str, float]:
    """Measures, prints and returns tokens per second and the ratios to the training step's forward share."""
    context, tokens = training.CONFIG.context, training.random_tokens()
    train, score = training.ours(tokens), scorer(models.build(training.CONFIG))

    def score_all(batches: list[Any]) -> float:
        return sum(score(batch)[0] for batch in batches)

    read, contenders = {"train": training.BATCH * context}, {"train": train}
    for name, stride in (("windows", context), ("half_overlap", context // 2)):
        stream = np.resize(tokens.ravel(), BATCHES * training.BATCH * stride + context - stride + 1)
        batches = list(windows(stream, context=context, stride=stride, batch=training.BATCH))
        assert len(batches) == BATCHES
        read[name], contenders[name] = BATCHES * training.BATCH * context, partial(score_all, batches)
    rates = {name: read[name] / seconds for name, seconds in training.best_seconds(contenders, training.TURNS).items()}
    figures = {f"{name}_tokens_per_second": rate for name, rate in rates.items()}
    for name in ("windows", "half_overlap"):
        figures[f"{name}_to_forward_share"] = rates[name] * FORWARD_SHARE / rates["train"]
        ratio = figures[f"{name}_to_forward_share"]
        print(f"  {name:<14} {rates[name]:8,.0f} tokens/s  {ratio:.2f} of a training step's forward share")
    print(f"  {'training':<14} {rates['train']:8,.0f} tokens/s")
    return figures
