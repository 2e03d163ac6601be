"""Forty wrong command lines and gin files: each ends with exit code 2 and one line with the right name or place."""

import json

import pytest

from tests.helpers.places import ROOT

DATA = ROOT / "tests" / "data" / "before_the_house" / "data"  # of a vocabulary of 320, in records of 32 tokens
# Gin files by name ({} is their folder), the command line, and what the refusal must contain.
CASES = [
    ({}, ["--gin_file=algpt.gin"], "algpt2.gin"),
    ({}, ["--gin_file=models/gpt2-smal.gin"], "models/gpt2-small.gin"),
    ({}, ["--gin_fle=gpt2.gin"], "gin_file"),
    ({}, ["--gin_file=gpt2.gin", "--gin_params=train.steps=1"], "gin_param"),
    ({}, ["--gin_file=gpt2.gin", "--tpu=pod-182"], "pod-128"),
    ({}, ["--gin_file=gpt2.gin", "--tpu=v3_8"], "v3-8"),
    ({}, ["--gin_file=gpt2.gin", "--tpu=v3-127"], "did you mean 'v3-64' or 'v3-128'?"),
    ({}, ["--gin_file=gpt2.gin", "--tpu=virtual-0"], "virtual-"),
    ({}, ["--gin_file=gpt2.gin", "train.steps=5"], "--name=value"),
    ({}, ["--gin_file=gpt2.gin", "--gin_param=train.stepz=5"], "steps"),
    ({}, ["--gin_file=gpt2.gin", "--gin_param=trian.steps=5"], "train"),
    ({}, ["--gin_file=gpt2.gin", "--gin_param=Adafactor.learning_rat=5"], "learning_rate"),
    ({}, ["--gin_file=gpt2.gin", "--gin_param=adafactor.learning_rate=1e-3"], "Adafactor"),
    ({}, ["--gin_file=gpt2.gin", "--gin_param=learning_rate=1e-3"], "learning_rate"),
    ({}, ["--gin_file=gpt2.gin", "--gin_param=train.steps"], "train.steps"),
    ({}, ["--gin_file=gpt2.gin", "--gin_param=train.steps=many"], "a whole number"),
    ({}, ["--gin_file=gpt2.gin", "--gin_param=train.steps=1.5"], "a whole number"),
    ({}, ["--gin_file=gpt2.gin", "--gin_param=train.steps="], "train.steps"),
    ({}, ["--gin_file=gpt2.gin", "--gin_param=train.clip_norm='one'"], "a number"),
    ({}, ["--gin_file=gpt2.gin", "--gin_param=Adafactor.scale_by_parameter=1"], "True or False"),
    ({}, ["--gin_file=gpt2.gin", "--gin_param=train.schedule=cosin"], "cosine"),
    ({}, ["--gin_file=gpt2.gin", "--gin_param=train.schedule='cosine"], "train.schedule"),
    ({}, ["--gin_file=gpt2.gin", "--gin_param=train.optimizer=adamm"], "adamw"),
    ({}, ["--gin_file=gpt2.gin", "--gin_param=train.model=gpt3"], "gpt2"),
    ({}, ["--gin_file=gpt2.gin", "--gin_param=train.compute_dtype=bf16"], "bfloat16"),
    ({}, ["--gin_file=gpt2.gin", "--gin_param=GPT2.remat=fulll"], "full"),
    (
        {},
        [
            "--gin_file=gpt2.gin",
            "--gin_param=train.optimizer=adamw",
            "--gin_param=AdamW.learning_rate=1e-3",
            "--gin_param=AdamW.slots=shraded",
        ],
        "'shraded': expected one of 'replicated', 'sharded' (did you mean 'sharded'?)",
    ),
    ({}, ["--gin_file=gpt2.gin", "--gin_param=Adafactor.slots=sharded"], "Adafactor has no parameter 'slots'"),
    ({}, ["--gin_file=gpt2.gin", "--gin_param=GPT2.heads=7"], "6"),
    ({}, ["--gin_file=gpt2.gin", "--gin_param=GPT2.dropout=1.5"], "below 1"),
    ({}, ["--gin_file=gpt2.gin", "--gin_param=train.microbatch=3", "--tpu=pod-128"], "4"),
    ({}, ["--gin_file=gpt2.gin", "--gin_param=train.global_batch=100", "--tpu=pod-128"], "128"),
    ({}, ["--gin_file=gpt2.gin", "--gin_param=ALGPT2.embedding=64"], "GPT2"),
    ({}, ["--gin_file=gpt2.gin", "--gin_param=AdamW.learning_rate=1e-3"], "Adafactor"),
    ({"a.gin": "include 'gpt2.gin'\ntrain.stpes = 5\n"}, ["--gin_file={}/a.gin"], "a.gin:2"),
    ({"a.gin": "include 'gpt3.gin'\n"}, ["--gin_file={}/a.gin"], "gpt2.gin"),
    ({"a.gin": "include 'b.gin'\n", "b.gin": "include 'a.gin'\n"}, ["--gin_file={}/a.gin"], "a.gin"),
    ({"a.gin": "include 'gpt2.gin'\ntrain.steps = 5\ntrain.steps = 6\n"}, ["--gin_file={}/a.gin"], "a.gin:3"),
    ({"a.gin": "include 'gpt2.gin'\ntrain.schedule = 'cosine\n"}, ["--gin_file={}/a.gin"], "a.gin:2"),
    ({"a.gin": "include 'gpt2.gin'\ntrain.steps = [1\n"}, ["--gin_file={}/a.gin"], "a.gin:2"),
    ({"a.gin": "train.model = 'gpt2'\n"}, ["--gin_file={}/a.gin"], "train.steps"),
    ({"a.gin": "include 'gpt2.gin'\nimport os\n"}, ["--gin_file={}/a.gin"], "a.gin:2"),
    ({"a.gin": "include 'gpt2.gin'\ntrain.steps = %STEPS\n"}, ["--gin_file={}/a.gin"], "STEPS"),
    ({"a.gin": "include 'gpt2.gin'\ntrain.steps 5\n"}, ["--gin_file={}/a.gin"], "a.gin:2"),
    ({"a.gin": "include 'gpt2.gin'\ntrain.steps = @train\n"}, ["--gin_file={}/a.gin"], "a.gin:2"),
    ({}, ["--gin_file=gpt2.gin", "--gin_file=algpt2.gin", "--gin_param=GPT2.layers=3"], "ALGPT2"),
    (
        {},
        ["--gin_file=gpt2.gin", "--gin_param=train.warmup_fraction=0.1"],
        "warmup_steps = 2000 and warmup_fraction = 0.1",
    ),
    (
        {},
        ["--gin_file=gpt2.gin", "--gin_param=Adafactor.learning_rate=1e400"],
        "learning_rate = inf: expected a number",
    ),
    ({}, ["--gin_file=gpt2.gin", "--tpu=v3-8", "--tpu=v3-32"], "--tpu is given twice, as v3-8 and as v3-32"),
    ({}, ["--gin_file=gpt2.gin", "--data=a", "--data=b"], "--data is given twice, as a and as b"),
    ({}, ["--gin_file=gpt2.gin", f"--data={DATA}"], f"--data={DATA}: GPT2.context 1024 does not divide the records'"),
    (
        {},
        [
            "--gin_file=gpt2.gin",
            f"--data={DATA}",
            "--gin_param=GPT2.context=32",
            "--gin_param=GPT2.vocabulary_size=9",
        ],
        f"--data={DATA}: the data set's vocabulary size is 320 (tokenizer 'tokenizer'), but 9 is expected",
    ),
    ({}, ["--gin_file=gpt2.gin", "--nodry_run"], "--dry_run is given twice, as True and as False"),
]


@pytest.mark.parametrize(("files", "arguments", "expected"), CASES, ids=[" ".join(case[1]) for case in CASES])
def test_it_is_refused_in_one_helpful_line(refused, tmp_path, files, arguments, expected):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    arguments = [argument.replace("{}", str(tmp_path)) for argument in arguments]
    if not any(argument.startswith("--tpu") for argument in arguments):
        arguments.append("--tpu=v3-8")
    assert expected in refused("pipeline.train", "--dry_run", *arguments)


SAID_FIRST = [  # of other commands, before anything is read or imported that takes time
    ("pipeline.train", ["--gin_file=algpt2.gin", "--tpu="], "--tpu=: is empty; expected a slice"),
    ("pipeline.shard", ["--gin_file=datasets/cpython.gin", "--output={}/file/x"], "file is not a directory"),
    ("pipeline.shard", ["--gin_file=datasets/cpython.gin", "--output=/proc/x"], "/proc cannot be written to; expected"),
    ("pipeline.shard", ["--gin_file=datasets/nosuch.gin", "--output={}/x"], "; gin/datasets/ has cpython, jsonl, open"),
    ("pipeline.export", ["--run_dir={}", "--output={}/file/x"], "file is not a directory"),
    (
        "pipeline.export",
        ["--run_dir={}", "--output={}/[x", "--format=saved_model"],
        "TensorFlow cannot load a SavedModel from it",
    ),
    ("tools.verify", ["--data=caf\udce9"], "'caf\\udce9' is not UTF-8 text"),
    ("pipeline.generate", ["--run_dir={}", "--prompt=caf\udce9"], r"--prompt='caf\udce9': is not UTF-8"),
    (
        "pipeline.generate",
        ["--run_dir={}", "--prompt=a", "--top_p=7"],
        "--top_p=7: expected a number in the range [0, 1]",
    ),
    ("pipeline.generate", ["--run_dir={}", "--prompt=a", "--repetition_penalty=nan"], "repetition_penalty=nan: "),
    (
        "pipeline.generate",
        ["--run_dir={}", "--prompt=a", "--seed=100000000000000000000"],
        "--seed=100000000000000000000: ",
    ),
    (
        "pipeline.tokenizer",
        ["--output={}/t", "--documents=100000000000000000000"],
        "--documents=100000000000000000000: ",
    ),
    ("tools.resume_proof", ["--gin_file=gpt2.gin", f"--data={DATA}"], f"--data={DATA}: GPT2.context 1024 does not"),
    ("tools.preflight", ["--gin_file=gpt2.gin", "--tpu=virtual-8"], "virtual-8 names no slice to compile for"),
    ("tools.preflight", ["--gin_file=gpt2.gin", "--tpu=v3-8", "--json={}"], "that is a directory; expected a file"),
]


@pytest.mark.parametrize(("module", "arguments", "expected"), SAID_FIRST)
def test_other_commands_say_it_first_and_write_nothing(refused, tmp_path, module, arguments, expected):
    (tmp_path / "file").write_text("mine")
    assert expected in refused(module, *[argument.replace("{}", str(tmp_path)) for argument in arguments])
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_a_file_binds_for_another_choice_is_no_mistake(run_module):
    """gpt2.gin sets Adafactor; choosing AdamW on the command line leaves those lines idle, and they stay allowed."""
    chosen = ("--gin_param=train.optimizer=adamw", "--gin_param=AdamW.learning_rate=6e-4")
    done = run_module("pipeline.train", "--dry_run", "--gin_file=gpt2.gin", "--tpu=v3-8", *chosen)
    assert done.returncode == 0 and "AdamW.learning_rate = 0.0006" in done.stdout, done.stderr


def test_slots_are_not_sharded_over_several_processes(refused, monkeypatch):
    """Each would see its own rows alone, and none could save them all."""
    cluster = {"cluster": {"worker": ["127.0.0.1:1", "127.0.0.1:2"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
    chosen = [f"--gin_param={name}" for name in ("train.optimizer=adamw", "AdamW.learning_rate=1e-3")]
    message = refused("pipeline.train", "--gin_file=gpt2.gin", *chosen, "--gin_param=AdamW.slots=sharded")
    assert "AdamW.slots='sharded' needs one process" in message and "expected 'replicated'" in message
