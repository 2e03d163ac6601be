"""The best checkpoint and the samples: kept at their steps, and the same after a restart that repeats steps."""

import contextlib
import types

import numpy as np
import tensorflow as tf

import models
from models.config import ALGPT2Config
from pipeline.config.train_config import TrainConfig
from pipeline.runs.checkpoints import BEST, Checkpoints
from pipeline.runs.run_directory import RunDirectory
from pipeline.runs.samples import SampleWriter
from pipeline.training.hooks import StepInfo
from pipeline.training.hooks.best import KeepBest
from pipeline.training.hooks.samples import FILE, WriteSamples
from pipeline.training.runtime import State


def test_the_lowest_loss_is_kept_through_a_restart(tmp_path):
    directory, value = RunDirectory(str(tmp_path)), tf.Variable(0.0)
    model = types.SimpleNamespace(variables=[types.SimpleNamespace(path="x", value=value)])
    best = KeepBest(State(model=model, optimizer=None), None, directory)
    losses = {10: 3.0, 20: 2.0, 30: 2.5, 40: 2.0, 50: 1.5, 60: 4.0}
    for step, kept in ((10, True), (20, True), (30, False)):
        value.assign(step)
        assert best.offer(step, losses[step]) is kept
    best = KeepBest(State(model=model, optimizer=None), None, directory)  # killed after 30, continues from 10
    assert best.record == {"step": 20, "nats_per_token": 2.0}
    assert not any(best.offer(step, losses[step]) for step in (20, 30, 40))
    value.assign(50)
    assert best.offer(50, losses[50]) and not best.offer(60, losses[60])
    other = tf.Variable(np.float32(-1))
    restored = Checkpoints(directory.join(BEST), {"weights/x": other}).restore_newest()
    assert restored.step == 50 and other == 50 and restored.metadata["nats_per_token"] == 1.5


def test_a_loss_that_is_not_a_number_is_never_the_best(tmp_path):
    model = types.SimpleNamespace(variables=[types.SimpleNamespace(path="x", value=tf.Variable(0.0))])
    best = KeepBest(State(model=model, optimizer=None), None, RunDirectory(str(tmp_path)))
    assert not best.offer(10, float("nan")) and best.record == {} and list(tmp_path.iterdir()) == []
    assert best.offer(20, 3.0) and not best.offer(30, float("nan"))


def test_samples_of_steps_that_run_again_are_replaced(tmp_path):
    shown = []
    metrics = types.SimpleNamespace(text=lambda name, text, step: shown.append((name, text, step)))
    directory = RunDirectory(str(tmp_path))
    texts = iter([*(f"text of {step}\nin two lines" for step in (500, 1_000, 1_500)), "another"])
    writer = types.SimpleNamespace(write=lambda: next(texts))
    run = types.SimpleNamespace(settings=types.SimpleNamespace(steps=2_000))
    runtime = types.SimpleNamespace(timed=lambda *_, **__: contextlib.nullcontext())

    def hook(step):
        record = {"validation.nats_per_token": 2.0}
        state = State(model=None, optimizer=None, step=step, record=record)
        return WriteSamples(run, state, runtime, directory, metrics, writer)

    first = hook(0)
    for step in (500, 1_000, 1_500):
        first.after_steps(StepInfo(step, None, None))
    hook(1_200).after_steps(StepInfo(1_500, None, None))
    expected = "".join(
        f"=== step {step} ===\ntext of {n}\nin two lines\n\n" for step, n in (("500", 500), ("1,000", 1000))
    )
    assert (tmp_path / FILE).read_text() == expected + "=== step 1,500 ===\nanother\n\n"
    assert shown[-1] == ("sample", "another", 1_500)


def test_a_copy_on_the_host_writes_what_the_model_would(virtual_devices):
    """TPUs are not here: the copy is asked to follow a model of two replicas, whose weights change between samples."""
    tokenizer = types.SimpleNamespace(encode=lambda text: [1, 2, 3], decode=str, end_of_text=299)
    config = ALGPT2Config(layers=2, heads=2, width=16, context=32, vocabulary_size=300, embedding=8)
    alone = models.build(config, seed=3)
    with tf.distribute.MirroredStrategy(virtual_devices[:2]).scope():
        mirrored = models.build(config, seed=3)
    copying, itself = SampleWriter(mirrored, tokenizer, "once", on_host=True), SampleWriter(alone, tokenizer, "once")
    first = copying.write()
    assert first == itself.write() and first.startswith("once[")
    for variable, other in zip(mirrored.variables, alone.variables, strict=True):
        changed = variable.numpy()[::-1]
        variable.assign(changed), other.assign(changed)
    assert copying.write() == itself.write() != first


def test_one_pass_and_a_share_of_warm_up_become_numbers():
    shared = {"model": "gpt2", "optimizer": "adamw", "global_batch": 8, "microbatch": 4, "warmup_fraction": 0.1}
    one_pass = TrainConfig(steps=-1, **shared).resolved(1_605)
    assert (one_pass.steps, one_pass.warmup_steps) == (200, 20)
    fixed = TrainConfig(steps=50, **shared).resolved(1_605)
    assert (fixed.steps, fixed.warmup_steps) == (50, 5)
