"""Skipped updates are written down with their records, too many end the run, and replay shows exactly those records."""

import json
import math
import subprocess
import types

import numpy as np
import pytest

from pipeline.data.format import manifest as manifests
from pipeline.data.format.tokenizer import Tokenizer
from pipeline.data.reading import datasets
from pipeline.runs import incidents
from pipeline.runs.run_directory import RunDirectory
from pipeline.training.hooks import StepInfo
from pipeline.training.hooks.incidents import WriteIncidents
from pipeline.training.runtime import State
from tools import replay

GLOBAL_BATCH, CONTEXT = 8, 32  # of the small run


@pytest.fixture(scope="module")
def failed_run(small_data, run_flags, project_root, python, tmp_path_factory):
    """A run whose every loss is above the threshold, ended by the third skipped update."""
    run = tmp_path_factory.mktemp("runs") / "run"
    command = [
        *(python, "-m", "pipeline.train", *run_flags, f"--data={small_data}", f"--run_dir={run}"),
        *("--gin_param=train.skip_loss_above=1.5", "--gin_param=train.max_skipped_steps=3"),
        *("--gin_param=train.steps=20", "--gin_param=train.steps_per_loop=2"),
    ]
    return run, subprocess.run(command, cwd=project_root, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_skipped_updates_are_written_down_and_too_many_end_the_run(failed_run, small_data):
    run, done = failed_run
    assert done.returncode == 1
    assert (
        done.stderr.strip()
        .splitlines()[-1]
        .startswith("failed: 3 updates in a row were skipped, to step 3 (loss above 1.5)")
    )
    skipped = incidents.read(RunDirectory(str(run)))
    assert [incident["step"] for incident in skipped] == [1, 2, 3]
    for incident in skipped:
        first = (incident["step"] - 1) * GLOBAL_BATCH
        assert incident["records"] == list(range(first, first + GLOBAL_BATCH))
        assert incident["loss"] > 1.5
        norms = incident["gradient_norms"]
        assert "algpt2/token_table" in norms and len(norms) == 20
        assert np.isclose(np.linalg.norm(list(norms.values())), incident["grad_norm"], rtol=1e-4)
    # No update was made: the same weights gave all three losses, on batches that differ.
    assert len({incident["loss"] for incident in skipped}) == 3


@pytest.mark.slow
def test_replay_prints_the_text_of_the_records_that_training_read(failed_run, small_data, run_module):
    run, _ = failed_run
    done = run_module("tools.replay", f"--run_dir={run}", f"--data={small_data}", "--incident=2")
    assert done.returncode == 0, done.stderr
    manifest = manifests.load(str(small_data))
    options = {"global_batch": GLOBAL_BATCH, "context": CONTEXT, "replicas": 1, "start_step": 1, "seed": 0}
    batch = next(datasets.train_dataset(str(small_data), manifest, **options).as_numpy_iterator())
    tokenizer = Tokenizer("small", manifests.read_tokenizer(str(small_data)))
    assert done.stdout.startswith("step 2: loss above 1.5; loss ")
    for index, tokens in zip(batch["index"], batch["tokens"], strict=True):
        assert f"record {index}: train-" in done.stdout
        assert tokenizer.decode(tokens.tolist()) in done.stdout
    assert "DAMAGED" not in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"incident": 9}, "no update was skipped at that step; the nearest is 3"),
        ({"data": "/nowhere"}, "/nowhere holds no data set"),
        ({"run_dir": "/nowhere"}, "/nowhere: no run.json"),
    ],
)
def test_replay_refuses_what_is_not_there(failed_run, small_data, refused, arguments, says):
    run, _ = failed_run
    flags = {"run_dir": run, "data": small_data} | arguments
    assert says in refused("tools.replay", *(f"--{name}={value}" for name, value in flags.items()))


def test_a_damaged_record_is_named(small_data, tmp_path):
    manifest = manifests.load(str(small_data))
    for path in small_data.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    incident = {"records": [0, 1]}
    first, second = replay.replay(str(tmp_path), incident, seed=0, context=CONTEXT)
    assert first.fault == second.fault == ""
    path = tmp_path / first.file
    raw = bytearray(path.read_bytes())
    raw[(first.row + 1) * manifest.record.bytes - 6] ^= 1  # its last id
    path.write_bytes(raw)
    first, second = replay.replay(str(tmp_path), incident, seed=0, context=CONTEXT)
    assert (first.fault, second.fault) == ("checksum", "")


def test_not_finite_figures_are_valid_json_and_repeated_steps_are_written_once(tmp_path):
    directory = RunDirectory(str(tmp_path))
    paths, lost = ["a", "b", "c"], [math.nan, 1.0, 1.0, 1.0, math.inf, 3.0, 0.0]  # loss, norm, skipped, norms, waited
    model = types.SimpleNamespace(trainable_variables=[types.SimpleNamespace(path=path) for path in paths])
    settings = types.SimpleNamespace(skip_loss_above=None, max_skipped_steps=9)
    run = types.SimpleNamespace(settings=settings, plan=types.SimpleNamespace(global_batch=2))
    runtime = types.SimpleNamespace(progress=types.SimpleNamespace(note=lambda line: None))
    hook = WriteIncidents(run, State(model=model, optimizer=None), runtime, directory)
    for step in (4, 9):
        hook.after_steps(StepInfo(step, np.array([[2.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0], lost]), 1.0))
    lines = (tmp_path / incidents.FILE_NAME).read_text().splitlines()
    parsed = [json.loads(line, parse_constant=lambda constant: pytest.fail(constant)) for line in lines]
    assert parsed[0] == {
        "step": 4,
        "reason": "loss or gradient not finite",
        "loss": "nan",
        "grad_norm": 1.0,
        "records": [6, 7],
        "gradient_norms": {"b": "inf", "c": 3.0, "a": 1.0},
    }
    assert list(parsed[0]["gradient_norms"]) == ["b", "c", "a"]
    WriteIncidents(run, State(model=model, optimizer=None, step=8), runtime, directory)
    assert [incident["step"] for incident in incidents.read(directory)] == [4]
