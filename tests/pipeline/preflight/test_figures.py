"""What the preflight makes of the compiler's figures: memory by purpose, times that can be, room for evaluation."""

from models.config import GPT2Config
from pipeline.config import batch_plan
from pipeline.config.attention_path import AttentionPath
from pipeline.config.train_config import TrainConfig
from pipeline.devices import own_process, slices
from pipeline.preflight import compile_step, tpu_compiler
from pipeline.preflight import figures as preflight_figures
from pipeline.preflight.compiled import GIB, Buffer, Compiled

SMALL = {"layers": 2, "heads": 2, "width": 256, "context": 256, "vocabulary_size": 1024}
SETTINGS = TrainConfig(model="gpt2", optimizer="adafactor", steps=10, global_batch=96, microbatch=4)
PIECE = slices.find("v3-8")
PLAIN = AttentionPath("plain", "asked for")


def test_evaluation_stands_beside_the_slots(monkeypatch):
    """GPT-2 xl's slots of AdamW are 11.6 GiB: an evaluation of 5 GiB has no room beside them."""
    compiled = Compiled(fits=True, peak_bytes=5 * GIB)
    monkeypatch.setattr(own_process, "call", lambda *arguments: (b"", {}))
    monkeypatch.setattr(tpu_compiler, "compile_for", lambda *arguments: compiled)
    plan = batch_plan.plan(global_batch=96, replicas=8, microbatch=4, context=256)
    for slots, fits in ((10 * GIB, True), (11 * GIB, False)):
        sizes = {"weights": 0, "slots": slots, "all_reduce": 0}
        model = GPT2Config(**SMALL)
        how = {"plan": plan, "steps": 1, "piece": PIECE, "attention": PLAIN}
        training = preflight_figures.figures(compiled, model=model, sizes=sizes, **how)
        evaluation = compile_step.check_evaluation(SETTINGS, model, PIECE, training)
        assert evaluation.fits is fits and evaluation.peak_bytes == slots + 5 * GIB


def test_an_estimate_that_cannot_be_true_is_not_printed():
    assert preflight_figures.step_time(-0.02, roofline=0.07, cycles=0.1) == (0.1, "cycles")
    assert preflight_figures.step_time(0.06, roofline=0.07, cycles=0.1) == (0.1, "cycles")
    assert preflight_figures.step_time(None, roofline=0.07, cycles=0.05) == (0.07, "cycles")
    assert preflight_figures.step_time(0.09, roofline=0.07, cycles=0.1) == (0.09, "compiler")
    assert preflight_figures.step_time(0.12, roofline=0.07, cycles=0.1) == (0.1, "cycles")


def test_memory_by_purpose_adds_up_to_the_peak():
    compiled = Compiled(
        fits=True,
        peak_bytes=1000,
        argument_bytes=450,
        program_bytes=7,
        largest=(Buffer(bytes=1, shape="f32[]", op="a"),),
    )
    plan = batch_plan.BatchPlan(64, 8, 2, 4, 1024)
    memory = preflight_figures.memory_by_purpose(compiled, {"weights": 300, "slots": 100}, plan)
    assert sum(size for purpose, size in memory.items() if purpose != "program") == 1000
    assert (memory["batch"], memory["accumulators"], memory["program"]) == (50, 300, 7)
