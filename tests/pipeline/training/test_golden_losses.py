"""Fifty steps of each model on one file of the embedded corpus, against the losses kept in tests/golden.

A deliberate change of the mathematics is written down by

    WRITE_GOLDEN=1 python -m pytest tests/pipeline/training/test_golden_losses.py
"""

import hashlib
import json
import os
import pathlib
import sysconfig

import numpy as np
import pytest
import tensorflow as tf

import models
from pipeline.config import batch_plan
from pipeline.optimizers.build import build
from pipeline.optimizers.config import AdafactorConfig, AdamWConfig
from pipeline.optimizers.schedules import Schedule
from pipeline.training.step import make_train_step
from tests.helpers.places import ROOT

GOLDEN = ROOT / "tests" / "golden" / "losses.json"
TEXT = "_pydecimal.py"  # the same in every release of CPython 3.11 that we know of
STEPS, BATCH, CONTEXT = 50, 8, 64
SIZES = {"layers": 2, "heads": 2, "width": 64, "context": CONTEXT, "vocabulary_size": 256}
# Calm rates: three times higher, the loss jumps about, and the rounding of another processor's instructions grows from
# 1e-6 to 0.3 in fifty steps. XLA_FLAGS=--xla_cpu_max_isa=SSE4_2 is such a processor.
ADAMW, ADAFACTOR = AdamWConfig(learning_rate=1e-3, weight_decay=0.1), AdafactorConfig(learning_rate=4e-2)
RUNS = {
    "gpt2-adamw": (models.GPT2Config(**SIZES), ADAMW, 1),
    "gpt2-dropout-accumulated": (models.GPT2Config(**SIZES, dropout=0.1), ADAMW, 2),
    "algpt2-adafactor": (models.ALGPT2Config(**SIZES, embedding=16), ADAFACTOR, 1),
    "algpt2-unfactorized-remat": (models.ALGPT2Config(**SIZES, embedding=None, remat="full"), ADAMW, 2),
}


def losses(config, optimizer_config, accumulation, tokens):
    model = models.build(config, seed=7)
    optimizer = build(optimizer_config, Schedule(kind="cosine", steps=STEPS, warmup_steps=5))
    optimizer.build(model.trainable_variables)
    plan = batch_plan.plan(global_batch=BATCH, replicas=1, microbatch=BATCH // accumulation, context=CONTEXT)
    step = make_train_step(model, optimizer, plan, clip_norm=1.0, seed=7, all_reduce=lambda tensors: tensors)
    compiled = tf.function(step, jit_compile=True)
    rows = tokens.reshape(STEPS, BATCH, CONTEXT + 1)
    index = np.arange(STEPS * BATCH).reshape(STEPS, BATCH)
    batches = zip(rows, index, strict=True)
    return [float(compiled({"tokens": tf.constant(r), "index": tf.constant(i)})["loss"]) for r, i in batches]


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_fifty_losses_are_those_written_down(name):
    data = pathlib.Path(sysconfig.get_paths()["stdlib"], TEXT).read_bytes()[: STEPS * BATCH * (CONTEXT + 1)]
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {"losses": {}}
    digest = hashlib.sha256(data).hexdigest()
    if digest != golden.setdefault("sha256", digest):
        pytest.skip(f"this release of CPython has another {TEXT}; the golden losses are of sha256 {golden['sha256']}")
    found = losses(*RUNS[name], np.frombuffer(data, np.uint8).astype(np.int32))
    assert found[-1] < found[0] - 1.5, "fifty steps must teach the model something, or equality says little"
    if os.environ.get("WRITE_GOLDEN"):
        golden["losses"][name] = [round(loss, 7) for loss in found]
        GOLDEN.write_text(json.dumps(golden, indent=1) + "\n")
    np.testing.assert_allclose(found, golden["losses"][name], rtol=0, atol=1e-4)
