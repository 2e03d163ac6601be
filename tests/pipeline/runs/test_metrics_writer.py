"""Figures are kept once, in order, through kills."""

import errno
import json
import os

import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from pipeline.runs.metrics_writer import MetricsWriter
from pipeline.runs.run_directory import RunDirectory


def writer(path, resume_step=0):
    return MetricsWriter(RunDirectory(str(path)), {}, wandb_mode="off", resume_step=resume_step)


def read(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_a_resumed_run_replaces_the_records_of_the_steps_it_repeats(tmp_path):
    first = writer(tmp_path)
    for step in (10, 20, 30):
        first.write({"step": step, "loss": 3.0 - step / 100})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 40, "lo')  # what a kill in the middle of a line leaves
    second = writer(tmp_path, resume_step=20)
    second.write({"step": 25, "loss": 1.0})
    assert [record["step"] for record in read(tmp_path)] == [10, 20, 25]


def test_tensorboard_holds_the_same_figures(tmp_path):
    metrics = writer(tmp_path)
    metrics.write({"step": 5, "loss": 2.5, "validation.nats_per_token": 2.25, "mfu": None})
    metrics.close()
    assert read(tmp_path) == [{"step": 5, "loss": 2.5, "validation.nats_per_token": 2.25}]
    figures = {}
    for file in (tmp_path / "tensorboard").iterdir():
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            for value in event.summary.value:
                figures[value.tag] = (event.step, float(tf.make_ndarray(value.tensor)))
    assert figures == {"loss": (5, 2.5), "validation/nats_per_token": (5, 2.25)}


def test_tensorboard_forgets_the_steps_that_a_resumed_run_repeats(tmp_path):
    first = writer(tmp_path)
    for step in (10, 20, 30):
        first.write({"step": step, "loss": 3.0 - step / 100})
    for file in (tmp_path / "tensorboard").iterdir():  # names hold the second, and the order is the names'
        file.rename(file.with_name("events.out.tfevents.0"))
    second = writer(tmp_path, resume_step=20)
    second.text("configuration", "x = 1", 20)
    shown = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in shown.Tensors("loss")] == [10, 20]
    second.write({"step": 25, "loss": 1.0})
    second.write({"step": 30, "loss": 0.5})
    shown.Reload()
    assert [event.step for event in shown.Tensors("loss")] == [10, 20, 25, 30]
    assert [event.step for event in shown.Tensors("configuration")] == [20]


def test_a_full_disk_at_the_start_of_a_resumed_run_leaves_the_history(tmp_path, monkeypatch):
    writer(tmp_path).write({"step": 10, "loss": 3.0})
    before = read(tmp_path)

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left.*metrics.jsonl"):
        writer(tmp_path, resume_step=10)
    assert read(tmp_path) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "tensorboard"]
