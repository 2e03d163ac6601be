"""metrics.jsonl, TensorBoard and Weights & Biases hold the same figures, through restarts and without a network."""

import json
import struct
import time

import numpy as np
import pytest
import tensorflow as tf

from pipeline.runs.metrics_writer import MetricsWriter
from pipeline.runs.run_directory import RunDirectory
from pipeline.runs.sinks import wandb
from pipeline.training.hooks import StepInfo
from pipeline.training.hooks.profile import Profiler
from pipeline.training.runtime.goodput import PARTS, Clock

RECORDS = [
    {"step": 10, "time": 1.6e9, "tokens": 640, "loss": 3.25, "learning_rate": 1e-3, "mfu": 0.4, "seconds.step": 1.5},
    {"step": 20, "tokens": 1280, "loss": 3.0, "learning_rate": 5e-4, "validation.nats_per_token": 3.125},
    {"step": 30, "tokens": 1920, "loss": float("nan"), "learning_rate": 1e-4, "validation.tokens": 127_524.0},
]


def track(path, records, resume_step=0, summary=None):
    metrics = MetricsWriter(
        RunDirectory(str(path)), {"train": {"steps": 30}}, wandb_mode="auto", resume_step=resume_step
    )
    metrics.text("configuration", "    train.steps = 30", resume_step)
    for record in records:
        metrics.text("sample", f"text of step {record['step']}", record["step"])
        metrics.write(record)
    metrics.close(summary)


def read_log(data):
    """Yields the records of a .wandb file: LevelDB's log format after a header of 7 bytes."""
    position, record = 7, b""
    while position + 7 <= len(data):
        left = 32_768 - position % 32_768
        if left < 7:  # padding at the end of a block
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        record += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def read_wandb(path, last_step):
    """Reads until the last record is there: wandb's own process may still be writing when the run has ended."""
    give_up = time.monotonic() + 60
    while True:
        runs = _read_wandb(path)
        is_whole = runs and last_step in runs[-1]["history"] and "parameters" in runs[-1]["summary"]
        if is_whole or time.monotonic() > give_up:
            return runs
        time.sleep(0.1)


def _read_wandb(path):
    """What `wandb sync` would upload: each offline file's run, config, history rows and summary, in order of time."""
    from wandb.proto import wandb_internal_pb2

    runs = []
    for file in sorted(path.glob("wandb/offline-run-*/*.wandb"), key=lambda file: file.stat().st_mtime):
        found = {"config": {}, "history": {}, "summary": {}}
        for data in read_log(file.read_bytes()):
            record = wandb_internal_pb2.Record.FromString(data)
            if record.run.run_id:
                found["id"], found["group"] = record.run.run_id, record.run.run_group
                found["config"] |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
            if record.history.item:
                row = {
                    ".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item
                }
                found["history"].setdefault(row["_step"], {}).update(row)
            for item in record.summary.update:
                found["summary"][".".join(item.nested_key) or item.key] = json.loads(item.value_json)
        runs.append(found)
    return runs


def read_tensorboard(path):
    """Returns {step: {name: figure}} with each step's time, and {step: {name: text}}, of all event files."""
    figures, texts = {}, {}
    for file in (path / "tensorboard").iterdir():
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            for value in event.summary.value:
                content = tf.make_ndarray(value.tensor)
                if value.metadata.plugin_data.plugin_name == "text":
                    texts.setdefault(event.step, {})[value.tag] = content.item().decode()
                else:
                    figures.setdefault(event.step, {"time": event.wall_time})
                    figures[event.step][value.tag.replace("/", ".")] = float(content)
    return figures, texts


def test_the_three_hold_the_same_figures_and_a_resumed_run_keeps_its_id(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_RUN_GROUP", "a sweep")
    track(tmp_path, RECORDS[:2])
    track(tmp_path, RECORDS[2:], resume_step=20, summary={"parameters": 7})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20, 30]
    figures, texts = read_tensorboard(tmp_path)
    first, second = read_wandb(tmp_path, 30)
    assert first["id"] == second["id"] and second["group"] == "a sweep"
    assert second["config"]["train"] == {"steps": 30} and second["summary"]["parameters"] == 7
    history = {step: first["history"].get(step, {}) | second["history"].get(step, {}) for step in (10, 20, 30)}
    assert history[10].pop("_timestamp") == figures[10]["time"] == 1.6e9
    for line in lines:
        expected = {name: value for name, value in line.items() if name not in ("step", "time")}
        figures[line["step"]].pop("time")
        in_wandb = {name: float(value) for name, value in history[line["step"]].items() if name in expected}
        assert figures[line["step"]] == pytest.approx(expected, rel=1e-6, nan_ok=True)
        assert in_wandb == pytest.approx(expected, nan_ok=True)
        assert texts[line["step"]]["sample"] == history[line["step"]]["sample"] == f"text of step {line['step']}"
    assert texts[0]["configuration"] == "    train.steps = 30"


def test_offline_folders_hold_each_step_once_after_a_kill(tmp_path, monkeypatch):
    """``wandb sync`` appends the second folder's rows to the first's."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    track(tmp_path, RECORDS, summary={"parameters": 7})
    track(tmp_path, [*RECORDS[1:], {"step": 40, "loss": 2.0}], resume_step=10, summary={"parameters": 7})
    first, second = read_wandb(tmp_path, 40)
    assert [step for step, row in first["history"].items() if "loss" in row] == [10, 20, 30]
    assert {step: set(row) & {"loss", "sample"} for step, row in second["history"].items()} == {
        10: set(),  # the configuration
        40: {"loss", "sample"},
    }
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()][1:] == [
        20,
        30,
        40,
    ]


def test_a_key_without_a_network_costs_seconds_and_stays_offline(tmp_path, monkeypatch):
    """Nothing answers at a discarded address, as on a machine behind a firewall that drops packets."""
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr(wandb, "ANSWER_SECONDS", 0.2)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "http://192.0.2.1:9")  # TEST-NET-1: nobody has it
    track(tmp_path, RECORDS[:1])
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


def test_a_key_that_is_not_one_costs_the_record_and_not_the_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "abc")
    track(tmp_path, RECORDS[:1])
    assert "warning: Weights & Biases is off in this run: AuthenticationError" in capsys.readouterr().err
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1


def test_the_clocks_parts_add_up_to_the_wall_clock_over_a_restart():
    began, start = time.time(), time.perf_counter()
    clock = Clock(began)
    with clock.spent_on("evaluation"):
        time.sleep(0.05)
        with clock.spent_on("checkpoint"):  # taken from the evaluation, not counted twice
            time.sleep(0.1)
    with clock.spent_on("step"):
        time.sleep(0.1)
    clock.move(0.04, "step", "input_wait")
    at_checkpoint = clock.seconds()
    assert at_checkpoint["checkpoint"] >= 0.1 and at_checkpoint["input_wait"] == 0.04
    with clock.spent_on("step"):
        time.sleep(0.1)  # lost: the process is killed before the next checkpoint
    resumed = Clock(began, at_checkpoint)
    seconds = resumed.seconds()
    assert set(seconds) == set(PARTS)
    assert sum(seconds.values()) == pytest.approx(time.perf_counter() - start, abs=0.05)
    assert seconds["restart"] >= 0.1 and seconds["step"] == at_checkpoint["step"]
    assert resumed.goodput() == pytest.approx(seconds["step"] / sum(seconds.values()), rel=0.2)


def test_a_profile_of_the_steps_that_were_asked_for(tmp_path):
    profiler, traced, step = Profiler(str(tmp_path), (3, 4)), [], 1
    profiler.after_steps(StepInfo(step, np.zeros([1, 5]), None))
    while step < 10:
        traced_before = profiler.on
        count = min(10 - step, 5, *profiler.steps_until_due(step))
        tf.matmul(tf.ones((8, 8)), tf.ones((8, 8)))
        traced += [number for number in range(step + 1, step + count + 1) if traced_before]
        step += count
        profiler.after_steps(StepInfo(step, np.zeros([count, 5]), 1.0))
    assert traced == [3, 4]
    assert list(tmp_path.rglob("*.xplane.pb"))
