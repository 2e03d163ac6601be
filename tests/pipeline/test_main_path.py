"""The main path by its command lines: shards, training, evaluation, generation - and what is refused on the way."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests.helpers.places import ROOT, WIKITEXT

SMALL = (
    "--gin_file=algpt2.gin",
    *(
        f"--gin_param={binding}"
        for binding in (
            "ALGPT2.layers=2",
            "ALGPT2.heads=2",
            "ALGPT2.width=64",
            "ALGPT2.embedding=32",
            "ALGPT2.context=64",
            "train.compute_dtype=float32",
            "train.global_batch=16",
            "train.microbatch=2",
            "train.steps=30",
            "train.warmup_steps=5",
            "train.steps_per_loop=10",
            "train.evaluate_every=20",
            "train.checkpoint_every=10",
            "train.wandb=off",
            "Adafactor.scale_by_parameter=False",
            "Adafactor.learning_rate=1e-2",
        )
    ),
)


@pytest.fixture(scope="session")
def shards(python, tmp_path_factory):
    """The beginning of WikiText's files where they are, the embedded corpus elsewhere, under a vocabulary of 512."""
    folder = tmp_path_factory.mktemp("shards")
    corpus = ["--gin_file=datasets/cpython.gin"]
    if WIKITEXT.exists():
        corpus = ["--gin_file=datasets/wikitext-2.gin", f"--source={folder}/wiki"]
        (folder / "wiki").mkdir()
        for path in WIKITEXT.glob("*.raw"):
            (folder / "wiki" / path.name).write_bytes(b"".join(path.open("rb").readlines(200_000)))
    for module, *arguments in (
        ("pipeline.tokenizer", *corpus, "--size=512", f"--output={folder}/tokenizer.json"),
        ("pipeline.shard", *corpus, f"--gin_param=shard.tokenizer={folder}/tokenizer.json", f"--output={folder}/data"),
    ):
        subprocess.run([python, "-m", module, *arguments], cwd=ROOT, check=True, capture_output=True)
    return folder / "data"


@pytest.fixture(scope="session")
def run_dir(shards, tmp_path_factory):
    return tmp_path_factory.mktemp("runs") / "run"


@pytest.fixture(scope="session")
def trained(shards, run_dir, users_xla):
    """A run that trained to its end on two virtual replicas with accumulation 4, in a process like a user's."""
    command = [sys.executable, "-m", "pipeline.train", *SMALL, f"--data={shards}", f"--run_dir={run_dir}"]
    command.append("--tpu=virtual-2")
    done = subprocess.run(command, cwd=ROOT, env=os.environ | users_xla, check=False, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", "TensorFlow's start-up log is for nobody"
    return done.stdout


@pytest.mark.slow
def test_the_loss_falls_and_the_summary_is_complete(trained, shards, run_dir):
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == list(range(1, 31))
    assert [record["step"] for record in records if "tokens_per_second" in record] == [10, 20, 30]
    assert records[-1]["loss"] < records[0]["loss"] - 0.3
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["steps"] == 30 and summary["tokens_seen"] == 30 * 16 * 64
    assert 0 < summary["train"]["mfu"] <= 1 and summary["train"]["tokens_per_second"] > 0
    assert summary["validation"]["nats_per_token"] == pytest.approx(records[-1]["loss"], rel=0.2)
    seconds = summary["seconds"]
    assert seconds["compile"] > 0 and seconds["evaluation"] > 0 and seconds["checkpoint"] > 0 and seconds["restart"] > 0
    assert summary["goodput"] == pytest.approx(seconds["step"] / sum(seconds.values()), abs=1e-3)
    ended = (run_dir / "summary.json").stat().st_mtime
    assert sum(seconds.values()) == pytest.approx(ended - float((run_dir / "began.txt").read_text()), abs=1)
    report = (run_dir / "report.html").read_text(encoding="utf-8")
    assert f"wrote {run_dir}/report.html" in trained
    assert (
        f"{summary['validation']['nats_per_token']:.4f} nats per token" in report
        and "python -m pipeline.train" in report
    )
    assert "2 virtual CPU devices, 1 host" in report and f"{shards}</td>" in report
    names = {path.name for path in run_dir.iterdir() if not path.name.startswith((".", "evaluation-"))}
    assert {"config.gin", "run.json", "tokenizer.json", "checkpoints", "tensorboard"} <= names
    assert json.loads((run_dir / "run.json").read_text())["train"]["attention"] == "plain"  # not "auto"
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8").partition("A run directory holds")[2]
    assert not [name for name in (*names, "wandb_id.txt") if f"`{name}" not in page], "docs/training.md lists them all"


@pytest.mark.slow
def test_the_same_command_again_says_that_it_is_done(trained, shards, run_dir, run_module):
    before = (run_dir / "summary.json").read_text()
    done = run_module("pipeline.train", *SMALL, f"--data={shards}", f"--run_dir={run_dir}", "--tpu=virtual-2")
    assert done.returncode == 0 and "is done" in done.stdout
    assert (run_dir / "summary.json").read_text() == before


@pytest.mark.slow
def test_training_on_begins_where_the_run_ended(trained, shards, run_dir, run_module, refused, tmp_path):
    flags = [*SMALL[:1], *(flag for flag in SMALL[1:] if "ALGPT2" not in flag), "--gin_param=train.steps=6"]
    flags += [f"--data={shards}", f"--run_dir={tmp_path}/on", f"--gin_param=train.pretrained={run_dir}"]
    flags += ["--gin_param=train.keep_best=True", "--gin_param=train.evaluate_every=0"]
    sizes = [flag for flag in SMALL if flag.startswith("--gin_param=ALGPT2")]
    assert "algpt2-base.gin" in refused("pipeline.train", *flags) and not (tmp_path / "on").exists()
    done = run_module("pipeline.train", *flags, *sizes)
    assert done.returncode == 0, done.stderr
    first = json.loads((tmp_path / "on" / "metrics.jsonl").read_text().splitlines()[0])
    before = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((tmp_path / "on" / "summary.json").read_text())
    assert summary["best"] == {"step": 6, "nats_per_token": summary["validation"]["nats_per_token"]}
    assert [path.name for path in (tmp_path / "on" / "best").iterdir()] == ["step-00000006"]
    assert first["step"] == 1 and abs(first["loss"] - before[-1]["loss"]) < 0.25 * (before[0]["loss"] - first["loss"])


@pytest.mark.slow
def test_evaluation_agrees_with_the_training_loops(trained, shards, run_dir, run_module):
    done = run_module("pipeline.evaluate", f"--run_dir={run_dir}", f"--data={shards}", "--tpu=virtual-2")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    summary = json.loads((run_dir / "summary.json").read_text())
    for figure in ("nats_per_token", "bits_per_byte", "tokens"):
        assert result["figures"][figure] == pytest.approx(summary["validation"][figure], rel=1e-5)
    manifest = json.loads((shards / "manifest.json").read_text())
    assert result["figures"]["tokens"] == manifest["parts"]["validation"]["tokens"] - 1
    assert result["protocol"]["tokenizer"] == manifest["tokenizer"]["fingerprint"]


@pytest.mark.slow
def test_a_text_is_scored_once_at_any_stride(trained, run_dir, run_module, tmp_path):
    text = "The tower is 324 metres tall .\n" * 8
    (tmp_path / "text.txt").write_text(text)
    results = []
    for stride in (64, 32):
        done = run_module(
            "pipeline.evaluate", f"--run_dir={run_dir}", f"--text={tmp_path}/text.txt", f"--stride={stride}"
        )
        assert done.returncode == 0, done.stderr
        results.append(json.loads(done.stdout)["figures"])
    assert results[0]["tokens"] == results[1]["tokens"]
    assert results[0]["words"] == 8 * 8 and results[0]["utf8_bytes"] == len(text)
    assert results[0]["nats_per_token"] != results[1]["nats_per_token"]
    evaluations = [json.loads(path.read_text()) for path in run_dir.glob("evaluation-*.json")]
    assert [
        evaluation["figures"] for evaluation in evaluations if evaluation["protocol"].get("stride") == 32
    ] == results[1:]
    done = run_module("tools.report", f"--run_dir={run_dir}", f"--output={tmp_path}/report.html")
    assert done.returncode == 0, done.stderr
    assert "These figures cannot be compared: stride differ." in (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_greedy_text_is_the_same_each_time(trained, run_dir, run_module):
    flags = (f"--run_dir={run_dir}", "--prompt=The game", "--temperature=0", "--max_tokens=8")
    first, second = (run_module("pipeline.generate", *flags) for _ in range(2))
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("The game") and first.stdout == second.stdout


def test_a_dry_run_knows_the_pods_arithmetic_without_data_or_tpu(run_module):
    done = run_module("pipeline.train", "--gin_file=algpt2.gin", "--tpu=pod-128", "--dry_run")
    assert done.returncode == 0 and done.stderr == ""
    for line in (
        "replicas                128 on 16 hosts",
        "global batch            512 sequences of 1,024 tokens",
        "= 128 replicas × 1 accumulation × 4 microbatch",
        "tokens per step         524,288",
        "steps                   90,000",
        "tokens in all           47,185,920,000",
        "effective learning rate at the schedule's highest point",
        "8.00e-04          token_table, position_table",
        "2.00e-04          query_key_value_kernel, mlp_input_kernel",
    ):
        assert line in done.stdout


def test_a_dry_run_with_data_takes_the_vocabulary_from_them(run_module):
    data = ROOT / "tests" / "data" / "before_the_house" / "data"
    done = run_module(
        "pipeline.train", "--gin_file=gpt2.gin", "--gin_param=GPT2.context=32", f"--data={data}", "--dry_run"
    )
    assert "parameters              85,326,336 with a vocabulary of 320\n" in done.stdout, done.stderr


def test_a_dry_run_says_what_an_absolute_rate_does_with_parameter_scaling(run_module):
    scaled = ("--gin_param=Adafactor.scale_by_parameter=True", "--gin_param=Adafactor.learning_rate=2.5e-4")
    done = run_module("pipeline.train", "--gin_file=gpt2.gin", "--tpu=v3-8", "--dry_run", *scaled)
    assert "optimizer slots         1.2 MiB per replica" in done.stdout, done.stdout + done.stderr
    assert "5.00e-06          token_table, position_table" in done.stdout
    assert "2.50e-04          final_norm_scale, attention_norm_scale × 12" in done.stdout
    assert "2.50e-07          final_norm_bias, attention_norm_bias × 12" in done.stdout


def test_a_dry_run_shows_the_rates_of_a_model_wider_than_the_base(run_module):
    settings = ("--gin_param=Adafactor.learning_rate=8e-2", "--gin_param=Adafactor.base_width=384")
    done = run_module("pipeline.train", "--gin_file=gpt2.gin", "--tpu=v3-8", "--dry_run", *settings)
    assert "1.60e-03          token_table, position_table\n" in done.stdout, done.stdout + done.stderr
    assert "8.00e-04          query_key_value_kernel × 12, mlp_input_kernel × 12\n" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--gin_file=algpt2.gin", "--tpu=pod-128", "--data=gs://nowhere/x", "--run_dir=gs://nowhere/r"], "TPU"),
        (["--gin_file=algpt2.gin", "--tpu=pod-128"], "TPU"),
        (["--gin_file=algpt2.gin", "--tpu=virtual-4"], "--data is missing"),
        (["--gin_file=algpt2.gin", "--tpu=pod128", "--dry_run"], "did you mean 'pod-128'"),
        (["--gin_file=algpt3.gin"], "did you mean 'algpt2.gin'"),
        (["--gin_file=finetune.gin", "--dry_run"], "give one by --gin_param=train.pretrained=…"),
        (["--gin_file=algpt2.gin", "--gin_param=ALGPT2.layer=3", "--dry_run"], "did you mean 'layers'"),
        (["--gin_file=algpt2.gin", "--gin_param=train.global_batch=500", "--tpu=pod-128", "--dry_run"], "512"),
        (["--gin_fiel=algpt2.gin"], "gin_file"),
        (["algpt2.gin"], "is not a flag"),
        ([], "--gin_file is missing"),
        ([*SMALL, "--data=/nowhere", "--run_dir=/tmp/never-made"], "/nowhere"),
        ([*SMALL, "--data={empty}", "--run_dir=/tmp/never-made"], "manifest"),
        ([*SMALL, "--data={shards}", "--run_dir=/tmp/never-made", "--gin_param=ALGPT2.vocabulary_size=50257"], "512"),
        ([*SMALL, "--data={shards}", "--run_dir=/tmp/never-made", "--gin_param=ALGPT2.context=60"], "60"),
    ],
)
def test_training_refuses_in_one_line(refused, shards, tmp_path, arguments, expected):
    arguments = [argument.format(empty=tmp_path, shards=shards) for argument in arguments]
    assert expected in refused("pipeline.train", *arguments)
    assert not pathlib.Path("/tmp/never-made").exists()


@pytest.mark.slow
def test_a_run_directory_of_another_model_is_refused(trained, refused, shards, run_dir):
    before = sorted(path.name for path in run_dir.rglob("*"))
    arguments = (*SMALL, "--gin_param=ALGPT2.width=32", f"--data={shards}", f"--run_dir={run_dir}", "--tpu=virtual-2")
    assert "model.width is 64 there and 32 here" in refused("pipeline.train", *arguments)
    assert sorted(path.name for path in run_dir.rglob("*")) == before


@pytest.mark.slow
def test_evaluation_and_generation_refuse_in_one_line(trained, refused, run_dir, tmp_path):
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "text.txt").write_text("some text")
    run = f"--run_dir={run_dir}"
    for module, arguments, expected in (
        ("pipeline.evaluate", [run], "--data"),
        ("pipeline.evaluate", [run, f"--text={tmp_path}/none.txt"], "no such file"),
        ("pipeline.evaluate", [run, f"--text={tmp_path}/empty.txt"], "no text"),
        ("pipeline.evaluate", [run, f"--text={tmp_path}/latin.txt"], "UTF-8"),
        ("pipeline.evaluate", [run, f"--text={tmp_path}/text.txt", "--stride=65"], "expected 1 to 64"),
        ("pipeline.evaluate", [run, f"--text={tmp_path}/text.txt", "--stride=0"], "expected 1 to 64"),
        ("pipeline.evaluate", [f"--run_dir={tmp_path}", f"--text={tmp_path}/text.txt"], "run.json"),
        ("pipeline.generate", [run, "--prompt="], "--prompt is empty"),
        ("pipeline.generate", [run, "--prompt=" + "word " * 200], "context of 64"),
        ("pipeline.generate", [run, "--prompt=a", "--repetition_penalty=0"], "repetition_penalty"),
    ):
        assert expected in refused(module, *arguments)
