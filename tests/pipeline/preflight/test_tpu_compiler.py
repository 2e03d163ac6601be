"""The processes of the preflight: what is lowered, what the compiler refuses, and what it says of memory."""

import dataclasses

import pytest

from models.config import GPT2Config
from pipeline.config import batch_plan
from pipeline.config.train_config import TrainConfig
from pipeline.devices import slices
from pipeline.errors import UserError, WorkFailedError
from pipeline.optimizers.config import AdafactorConfig
from pipeline.preflight import libtpu_process, lowering, own_process, tpu_compiler
from pipeline.preflight.compiled import GIB, Compiled

pytest.importorskip("libtpu", reason="requirements-preflight.txt is not installed")
SMALL = {"layers": 2, "heads": 2, "width": 256, "context": 256, "vocabulary_size": 1024}
SETTINGS = TrainConfig(model="gpt2", optimizer="adafactor", steps=10, global_batch=96, microbatch=4)
ADAFACTOR = AdafactorConfig(learning_rate=1e-3)


@pytest.mark.usefixtures("forked_children")
def test_the_step_is_lowered_with_every_setting_that_changes_it():
    """Dropout's masks are constants of the seed; a bound on the loss is a comparison more."""
    model = GPT2Config(**SMALL | {"layers": 1, "dropout": 0.1})
    plan = batch_plan.plan(global_batch=8, replicas=8, microbatch=1, context=256)
    lowered = {
        own_process.call("", lowering.lower_train, model, ADAFACTOR, dataclasses.replace(SETTINGS, **changes), plan)[0]
        for changes in ({}, {"seed": 1}, {"skip_loss_above": 9.0})
    }
    assert len(lowered) == 3


@pytest.mark.parametrize(
    "message",
    [
        "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (18.25G) exceeds available HBM (15.48G). HLO module: a_step.",
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 18.25G of 15.48G hbm. Exceeded hbm "
        "capacity by 2.77G. HLO module: a_step. Memory usage report: …",
    ],
)
def test_each_form_of_running_out_of_memory_is_understood(message):
    answer = libtpu_process._out_of_memory(message)
    assert answer == Compiled(fits=False, peak_bytes=int(18.25 * GIB), hbm_limit_bytes=int(15.48 * GIB))
    assert libtpu_process._out_of_memory("INTERNAL: Mosaic failed") is None


def test_a_topology_that_libtpu_refuses(tmp_path, monkeypatch):
    odd = slices.Slice(name="odd", generation="v3", topology="3x5", cores=30, hosts=15, hbm_gib_per_core=16)
    monkeypatch.setattr(tpu_compiler, "CACHE", tmp_path)
    with pytest.raises(UserError, match="libtpu refuses the topology v3:3x5"):
        tpu_compiler.compile_for(b"", odd, 30)


def test_a_missing_compiler_is_one_sentence(monkeypatch):
    monkeypatch.setattr(tpu_compiler, "installed", lambda package: None)
    with pytest.raises(UserError, match=r"jax and libtpu: \S*pip install -r requirements-preflight.txt"):
        tpu_compiler.require_compiler()
    monkeypatch.setattr(tpu_compiler, "installed", {"tensorflow-tpu": "2.20.0", "libtpu": "0.0.24"}.get)  # on a TPU VM
    with pytest.raises(UserError, match=r"an environment of its own, pip install -r requirements.txt -r"):
        tpu_compiler.require_compiler()


def test_a_process_that_dies_is_named_with_what_it_said():
    with pytest.raises(WorkFailedError, match=r"the compiler died \(7\): no memory"):
        own_process.call("the compiler", exec, "import sys; print('no memory', file=sys.stderr); raise SystemExit(7)")
