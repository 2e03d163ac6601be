"""Killed runs come back to the bit: the proof as a command, and a run that dies twelve times."""

import json

import pytest

from tools import resume_proof
from tools.resume_proof import Outcome, Topology

HOME = Topology("the same", "virtual-2")
STEPS = 100  # of the run that is killed; each life takes 2 to 8


@pytest.mark.slow
def test_a_killed_run_with_dropout_resumes_on_any_topology(small_data, adafactor_flags, run_module):
    done = run_module(
        "tools.resume_proof",
        *adafactor_flags,
        "--gin_param=ALGPT2.dropout=0.1",
        f"--data={small_data}",
        "--steps=3",
        "--more=3",
        timeout=1800,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    same, replicas, accumulation = done.stdout.strip().splitlines()[-3:]
    assert "6/6 equal" in same and "0.0e+00" in same and "equal to the bit" in same
    assert "virtual-1" in replicas and "6/6 equal" in replicas
    assert "microbatch 1" in accumulation and "6/6 equal" in accumulation


def recorded(run):
    """Returns the record of each step, without what no two runs have in common."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: record[name] for name in ("step", "tokens", "loss", "grad_norm", "learning_rate")} for record in records
    ]


@pytest.mark.slow
def test_twelve_kills_change_nothing(small_data, adafactor_flags, run_module, tmp_path):
    """Seeded; every third kill falls into the writing of a checkpoint."""
    shared = [
        *adafactor_flags,
        f"--data={small_data}",
        "--gin_param=train.compute_dtype='float32'",
        f"--gin_param=train.steps={STEPS}",
        "--gin_param=train.steps_per_loop=2",
        "--gin_param=train.checkpoint_every=2",
        "--gin_param=ALGPT2.dropout=0.1",
    ]
    deaths = {}
    for name, kills in (("unbroken", 0), ("killed", 12)):
        run_dir = f"--run_dir={tmp_path / name}/run"
        done = run_module("tests.helpers.lives", str(kills), "7", *shared, run_dir, timeout=3000)
        deaths[name] = [line for line in done.stdout.splitlines() if line.startswith("died")]
        assert done.returncode == 0, done.stderr[-2000:]
    lives = deaths["killed"]
    assert [line.endswith(": -9") for line in lives] == [True] * 12 + [False], lives
    assert lives[-1] == deaths["unbroken"][0] == "died of old age: 0"
    in_checkpoints = [line.split(", ")[1] for line in lives if "checkpoint" in line]
    assert len(in_checkpoints) == 4 and {*in_checkpoints} == {"measure: -9", "commit: -9"}
    difference, equal = resume_proof._weight_difference(str(tmp_path / "unbroken"), str(tmp_path / "killed"), STEPS)
    assert equal, f"weights differ by {difference}"
    summaries = [json.loads((tmp_path / name / "run" / "summary.json").read_text()) for name in deaths]
    assert summaries[0]["steps"] == summaries[1]["steps"] == STEPS
    unbroken, killed = (recorded(tmp_path / name / "run") for name in deaths)
    assert killed == unbroken and [record["step"] for record in killed] == list(range(1, STEPS + 1))


@pytest.mark.parametrize(
    ("change", "exact", "holds"),
    [
        ({}, True, True),
        ({"tokens": 5}, False, False),
        ({"equal_bits": False, "weight_difference": 1e-9}, True, False),
        ({"equal_bits": False, "weight_difference": 1e-9}, False, True),
        ({"loss_difference": 1e-7}, True, False),
        ({"loss_difference": 1e-7}, False, True),
        ({"loss_difference": 2e-5}, False, False),
        ({"loss_difference": float("nan")}, False, False),
    ],
)
def test_what_counts_as_the_same_run(change, exact, holds):
    same = {"steps": 6, "tokens": 6, "loss_difference": 0.0, "weight_difference": 0.0, "equal_bits": True}
    outcome = Outcome(topology=HOME, **(same | change))
    assert outcome.holds(exact=exact) == holds


def test_the_report_fails_where_the_exact_topology_differs(capsys):
    good = Outcome(HOME, 6, 6, 0.0, 0.0, True)
    bad = Outcome(HOME, 6, 6, 0.0, 1e-8, False)
    assert resume_proof.report([good, bad])
    assert not resume_proof.report([bad, good])
    assert "DIFFERENT" in capsys.readouterr().out


def test_a_batch_read_again_after_a_kill_replaces_what_the_dead_process_read_ahead(tmp_path):
    lines = [
        {"step": 0, "process": 1, "rows": ["a"]},
        {"step": 0, "process": 1, "rows": ["b"]},
        {"step": 1, "process": 1, "rows": ["c"]},
        {"step": 1, "process": 2, "rows": ["c"]},
        {"step": 1, "process": 2, "rows": ["d"]},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    broken = resume_proof._token_hashes(str(tmp_path))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(lines[n]) + "\n" for n in (0, 1, 2, 4)).replace("2", "1"))
    unbroken = resume_proof._token_hashes(str(tmp_path))
    assert set(broken) == {0, 1} and broken == unbroken


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--gin_file=quickstart.gin"], "--data is missing"),
        (["--data=x"], "--gin_file is missing"),
        (["--data=/nowhere", "--gin_file=quickstart.gin"], "/nowhere holds no data set"),
    ],
)
def test_bad_input_is_refused_in_one_line(refused, arguments, says):
    assert says in refused("tools.resume_proof", *arguments)
