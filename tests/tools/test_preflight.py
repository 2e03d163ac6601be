"""The preflight on small models with the real TPU compiler: its counts against analytic ones, answers and refusals.

Programs of two layers compile in seconds. The cache is the tests' own: what the code or a test changes compiles anew.
"""

import hashlib
import json
import re

import pytest

from models.config import ALGPT2Config, GPT2Config
from pipeline.config import batch_plan
from pipeline.config.attention_path import AttentionPath
from pipeline.config.train_config import TrainConfig
from pipeline.devices import slices
from pipeline.devices.tpu_specs import GENERATIONS
from pipeline.optimizers.config import AdafactorConfig
from pipeline.preflight import compile_step, hlo
from pipeline.preflight import figures as preflight_figures
from pipeline.preflight.compiled import GIB, Compiled
from tests.helpers.places import ROOT
from tools import preflight as command

pytest.importorskip("libtpu", reason="requirements-preflight.txt is not installed")
SMALL = {"layers": 2, "heads": 2, "width": 256, "context": 256, "vocabulary_size": 1024}
REQUIRED = {
    *("fits", "peak_bytes_per_core", "hbm_bytes_per_core", "hbm_traffic_bytes", "estimate_seconds", "model_flops"),
    *("tokens_per_second", "mfu", "microbatch", "accumulation", "replicas"),
}


@pytest.fixture
def cache(monkeypatch):
    """The cache of the commands that a test runs: it is kept between runs for as long as the preflight's code is."""
    sources = sorted((ROOT / "pipeline" / "preflight").glob("*.py"))
    code = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]
    path = ROOT / ".pytest_cache" / "preflight" / code
    monkeypatch.setenv("PREFLIGHT_CACHE", str(path))
    return path


ANSWERS = {}  # of the commands of several tests


@pytest.fixture
def preflight(run_module, cache, tmp_path):
    """Runs tools.preflight on a small model, unless it has; returns (completed process, figures)."""

    def run(kind="GPT2", tpu="v3-8", flags=(), again=False, **changes):
        values = {f"{kind}.{name}": value for name, value in SMALL.items()}
        values |= {"train.global_batch": 32, "train.microbatch": 4} | changes
        answer = tmp_path / "answer.json"
        asked = [f"--gin_file={kind.lower()}.gin", f"--tpu={tpu}", *flags]
        asked += [f"--gin_param={name}={value!r}" for name, value in sorted(values.items())]
        if again or tuple(asked) not in ANSWERS:
            done = run_module("tools.preflight", *asked, f"--json={answer}")
            ANSWERS[tuple(asked)] = done, json.loads(answer.read_text()) if answer.exists() else None
        return ANSWERS[tuple(asked)]

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "layers", "tpu"),
    [("GPT2", 2, "v3-8"), ("ALGPT2", 7, "v3-8"), ("ALGPT2", 7, "v5e-8")],
)
def test_counts_agree_with_analytic_ones(preflight, kind, layers, tpu):
    """ALGPT2's layers are one loop: counted once, its FLOPs would be less than half of this at 7 layers."""
    scheduled = ["--schedule"] if tpu == "v5e-8" else []
    done, figures = preflight(kind, tpu, **{f"{kind}.layers": layers}, flags=["--noevaluation", *scheduled])
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(figures) >= REQUIRED
    assert figures["fits"] and figures["compiled"]["unknown_loops"] == 0
    assert figures["attention"] == ("plain" if tpu == "v3-8" else "fused")
    # Of a kernel, one block of 256 × 256: two products forward and five backward, for each head of each sequence.
    kernels = 7 * 2 * SMALL["width"] * SMALL["context"] ** 2 * 4 * layers if tpu == "v5e-8" else 0
    assert figures["compiled"]["kernel_flops"] == kernels
    # In bfloat16 the loss multiplies with the table once more, or with an eighth of a large one, to find its shift.
    shift = 2 * SMALL["vocabulary_size"] * (128 if kind == "ALGPT2" else SMALL["width"])
    config = {"GPT2": GPT2Config, "ALGPT2": ALGPT2Config}[kind](**SMALL | {"layers": layers})
    dense = config.flops_per_token() - 12 * layers * SMALL["width"] * SMALL["context"]
    assert figures["dense_flops_ratio"] - shift / dense == pytest.approx(1, abs=0.01)
    own, theirs = figures["compiled"]["once_traffic_bytes"], figures["compiled"]["compiler_traffic_bytes"]
    if tpu == "v3-8":
        name = "shared_block" if kind == "ALGPT2" else "block_01"
        assert any(name in buffer["op"] for buffer in figures["compiled"]["largest"])
        assert own == pytest.approx(theirs, rel=0.25)
        assert figures["hbm_traffic_bytes"] >= theirs
    else:  # what is cut off and brought to the core beforehand counts as much as it is, and not as the whole
        assert own < theirs
        check_schedule(figures, layers)
    bound = max(figures["compute_seconds"], figures["traffic_seconds"])
    assert bound <= figures["estimate_seconds"] <= 1.02 * figures["cycles_seconds"] + bound
    assert figures["replicas"] * figures["accumulation"] * figures["microbatch"] == 32
    assert "fits              yes" in done.stdout


def check_schedule(figures, layers):
    """All that takes time is in kernels that were dumped; the shared block's multiplications run once a layer."""
    assert figures["schedule_seconds"] == pytest.approx(sum(figures["schedule"].values()))
    kernels = figures["compiled"]["kernels"]
    assert all(kernel["bundles"] for kernel in kernels if kernel["cycles"])
    multiplied = [kernel["runs"] for kernel in kernels if re.search(r"shared_block/.*(MatMul|Einsum)", kernel["op"])]
    assert len(multiplied) > 5 and not any(runs % layers for runs in multiplied)
    peak = GENERATIONS["v5e"].flops_per_cycle
    assert (
        sum(kernel["runs"] * kernel["bundles"] for kernel in kernels if kernel["flops"])
        > figures["hardware_flops"] / peak
    )
    assert figures["schedule_units"]["mlp"][0] == "matrix unit"
    assert figures["compute_seconds"] < figures["schedule_seconds"] < figures["cycles_seconds"]


@pytest.mark.slow
def test_the_program_of_a_shared_block_does_not_grow_with_depth(preflight):
    """Forty-eight applications are the program of seven: the compiler's time depends on a block's width alone."""
    figures = [preflight("ALGPT2", **{"ALGPT2.layers": layers}, flags=["--noevaluation"])[1] for layers in (7, 48)]
    sizes = [each["compiled"]["program_bytes"] for each in figures]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.02)


@pytest.mark.slow
def test_accumulation_is_counted_as_often_as_it_runs(preflight):
    """Four microbatches of one are as many FLOPs as one of four; sixteen need no more memory than four."""
    together = preflight(flags=["--noevaluation"])[1]
    apart = preflight(**{"train.microbatch": 1}, flags=["--noevaluation"])[1]
    assert (apart["accumulation"], apart["microbatch"]) == (4, 1)
    assert apart["compiled"]["unknown_loops"] == 0
    assert apart["hardware_flops"] == pytest.approx(together["hardware_flops"], rel=0.10)
    assert apart["model_flops"] == together["model_flops"]
    assert apart["memory"]["accumulators"] == apart["memory"]["weights"] > 0
    more = preflight(**{"train.microbatch": 1, "train.global_batch": 128}, flags=["--noevaluation"])[1]
    assert more["accumulation"] == 16
    assert more["peak_bytes_per_core"] == pytest.approx(apart["peak_bytes_per_core"], rel=0.002)


@pytest.mark.slow
def test_slots_that_are_sharded_take_their_share_of_a_core(preflight):
    """8 divides every variable's rows here, so that a core of v3-8 holds an eighth; the new weights go out too."""
    changes = {"train.optimizer": "adamw", "AdamW.learning_rate": 1e-3}
    whole = preflight(**changes, flags=["--noevaluation"])[1]
    done, split = preflight(**changes, **{"AdamW.slots": "sharded"}, flags=["--noevaluation"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert whole["memory"]["slots"] == 2 * whole["memory"]["weights"]
    assert split["memory"]["slots"] == whole["memory"]["slots"] / 8
    arguments = whole["compiled"]["argument_bytes"] - split["compiled"]["argument_bytes"]
    assert arguments == pytest.approx(whole["memory"]["slots"] * 7 / 8, rel=0.02)  # vectors are padded to 1,024
    assert split["all_reduce_bytes"] == 2 * whole["all_reduce_bytes"] == 2 * split["memory"]["weights"]
    assert split["peak_bytes_per_core"] < whole["peak_bytes_per_core"]


@pytest.mark.slow
def test_rematerialised_blocks_cast_their_weights_where_they_use_them(preflight, tmp_path):
    """Cast before the loop over microbatches, all blocks' bfloat16 weights would live at once: 2.9 GiB of gpt2-xl."""
    file = tmp_path / "step.hlo"
    done, _ = preflight(**{"GPT2.remat": "full", "train.microbatch": 2}, flags=["--noevaluation", f"--program={file}"])
    assert done.returncode == 0, done.stdout + done.stderr
    compiled = hlo.parse(file.read_text())
    kernels = {(256, 768), (256, 1024)}  # the shapes that only blocks have
    before = [
        instruction.name
        for instruction in compiled.computations[compiled.entry].instructions.values()
        for array in instruction.arrays
        if array.dimensions in kernels and array.bytes == 2 * array.dimensions[0] * array.dimensions[1]
    ]
    assert before == []


@pytest.mark.slow
def test_a_program_is_compiled_once(preflight, cache):
    preflight(flags=["--noevaluation"])
    before = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
    done, figures = preflight(flags=["--noevaluation"], again=True)
    assert {path: path.stat().st_mtime_ns for path in cache.iterdir()} == before
    assert figures["fits"] and done.returncode == 0


@pytest.mark.slow
def test_gpt2_small_is_as_lean_as_promised(run_module, cache, tmp_path):
    """4 sequences of 1,024 per core of v3-128, Adafactor, no rematerialisation; deterministic for a pinned compiler."""
    answer = tmp_path / "answer.json"
    done = run_module("tools.preflight", "--gin_file=gpt2.gin", "--tpu=pod-128", "--noevaluation", f"--json={answer}")
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(answer.read_text())
    assert (figures["microbatch"], figures["accumulation"], figures["replicas"]) == (4, 1, 128)
    assert figures["hbm_traffic_bytes"] <= 20.7e9 and figures["peak_bytes_per_core"] <= 1.9e9
    assert figures["estimate_source"] == "compiler" and figures["estimate_seconds"] <= 0.082
    assert figures["cycles_seconds"] <= 0.110


@pytest.mark.slow
def test_what_does_not_fit_ends_with_1(preflight):
    """32 sequences of 16,384 wide logits and 16 heads of attention at 4,096 tokens: more than a v2 core's 7.48 GiB."""
    changes = {"GPT2.context": 4096, "GPT2.heads": 16, "GPT2.width": 1024, "train.microbatch": 32}
    done, figures = preflight(tpu="v2-8", **changes, **{"train.global_batch": 256}, flags=["--noevaluation"])
    assert done.returncode == 1, done.stdout + done.stderr
    assert figures["fits"] is False and figures["tokens_per_second"] is None
    assert figures["peak_bytes_per_core"] > figures["hbm_bytes_per_core"] == pytest.approx(7.48 * GIB, rel=1e-3)
    assert "fits              NO" in done.stdout
    assert re.search(r"^  weights +0\.\d\d GiB$", done.stdout, re.M) and "  activations and gradients" in done.stdout


@pytest.mark.slow
def test_training_can_ask_first_whether_it_fits(run_module, cache):
    """Here with --dry_run, which needs no TPU: what fits ends with 0, what does not with 1 and a sentence."""

    def ask(tpu, **changes):
        values = {f"GPT2.{name}": value for name, value in (SMALL | changes).items()}
        rows = 32 if tpu == "v2-8" else 4  # as in other tests, whose compiled programs these are
        values |= {"train.global_batch": 8 * rows, "train.microbatch": rows}
        arguments = [f"--gin_param={name}={value!r}" for name, value in values.items()]
        return run_module(
            "pipeline.train", "--gin_file=gpt2.gin", f"--tpu={tpu}", "--dry_run", "--preflight", *arguments
        )

    fits, does_not = ask("v3-8"), ask("v2-8", context=4096, heads=16, width=1024)
    assert fits.returncode == 0 and "fits              yes" in fits.stdout, fits.stderr
    assert does_not.returncode == 1 and "fits              NO" in does_not.stdout
    assert does_not.stderr == "failed: the step does not fit v2-8, so nothing was started\n"


def test_training_asks_only_for_a_slice(refused):
    output = refused("pipeline.train", "--gin_file=gpt2.gin", "--tpu=virtual-8", "--dry_run", "--preflight")
    assert "--tpu names none; expected one such as --tpu=v3-8" in output


@pytest.mark.slow
def test_search_recommends_a_microbatch(preflight):
    done, figures = preflight(flags=["--search"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert figures["microbatch"] == 4 and figures["accumulation"] == 1  # the whole share of a core fits
    assert set(figures["tried"]) == {"none", "full"}
    assert "recommended" in done.stdout


PLAIN = AttentionPath("plain", "asked for")
SETTINGS = TrainConfig(model="gpt2", optimizer="adafactor", steps=10, global_batch=96, microbatch=4)
ADAFACTOR, PIECE = AdafactorConfig(learning_rate=1e-3), slices.find("v3-8")


@pytest.fixture
def search(monkeypatch):
    """Runs the search where a sequence takes so many GiB per core without and with rematerialisation."""

    def run(none, full):
        tried, answers = [], []

        def check(settings, model, optimizer, piece):
            tried.append((model.remat, settings.microbatch))
            peak = round({"none": none, "full": full}[model.remat] * settings.microbatch * GIB)
            compiled = Compiled(fits=peak < 15.48 * GIB, peak_bytes=peak, flops=1e12, cycles=1e9)
            plan = batch_plan.plan(global_batch=96, replicas=8, microbatch=settings.microbatch, context=model.context)
            sizes = {"weights": 0, "slots": 0, "all_reduce": 0}
            how = {"plan": plan, "steps": 10, "piece": piece, "attention": PLAIN}
            return preflight_figures.figures(compiled, model=model, sizes=sizes, **how)

        monkeypatch.setattr(compile_step, "check", check)
        monkeypatch.setattr(command, "write_json", answers.append)
        code = command.search(SETTINGS, GPT2Config(**SMALL), ADAFACTOR, PIECE)
        return code, tried, answers[0]

    return run


def test_search_bisects_what_divides_a_core_s_share(search, capsys):
    """Twelve sequences per core: of 1, 2, 3, 4, 6 and 12 the largest that fits is 4, and no two are tried twice."""
    code, tried, answer = search(none=3, full=3.5)
    assert code == 0 and len(set(tried)) == len(tried) <= 2 * 4
    assert (answer["microbatch"], answer["accumulation"]) == (4, 3)
    assert "microbatch 4 × accumulation 3" in capsys.readouterr().out
    _, tried, answer = search(none=99, full=2)
    assert (answer["remat"], answer["microbatch"]) == ("full", 6)


def test_search_says_what_nothing_fits(search, capsys):
    code, _, answer = search(none=30, full=16)
    assert code == 1 and answer["fits"] is False and set(answer) >= REQUIRED
    assert answer["microbatch"] == 1 and "does not fit at any microbatch: 16.00 GiB at 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--gin_file=gpt2.gin", "--tpu=pod-129"], "no slice is called 'pod-129' (did you mean 'pod-128'?)"),
        (["--gin_file=gpt2.gin", "--tpu=virtual-8"], "--tpu=virtual-8 names no slice to compile for"),
        (["--gin_file=gpt2.gin"], "--tpu is missing"),
        (["--tpu=pod-128"], "--gin_file is missing"),
        (["--gin_file=gpt2.gin", "--tpu=v3-8", "--search", "--schedule"], "--schedule reads one; expected one of them"),
        (
            ["--gin_file=gpt2.gin", "--tpu=v3-512", "--gin_param=train.microbatch=4"],
            "does not divide into 512 replicas",
        ),
        (["--gin_file=gpt2.gin", "--tpu=v3-8", "--gin_param=train.global_batch=4"], "does not divide into 8 replicas"),
        (["--gin_file=gpt3.gin", "--tpu=v3-8"], "gpt3.gin"),
    ],
)
def test_mistakes_are_one_sentence(refused, flags, message):
    assert message in refused("tools.preflight", *flags)
