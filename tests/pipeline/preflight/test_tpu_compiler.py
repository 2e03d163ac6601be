"""The processes of the preflight: what is lowered, what the compiler refuses, and what it says of memory."""

import dataclasses
import re

import pytest

from models.config import GPT2Config
from pipeline.config import batch_plan
from pipeline.config.train_config import TrainConfig
from pipeline.devices import own_process, slices, wheels
from pipeline.errors import UserError, WorkFailedError
from pipeline.optimizers.config import AdafactorConfig
from pipeline.preflight import libtpu_process, lowering, serialised, tpu_compiler
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
    answer = libtpu_process.out_of_memory(message)
    assert answer == Compiled(fits=False, peak_bytes=int(18.25 * GIB), hbm_limit_bytes=int(15.48 * GIB))
    assert libtpu_process.out_of_memory("INTERNAL: Mosaic failed") is None


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
    with pytest.raises(WorkFailedError, match=r"the compiler died \(7\): no memory; \S*pip install -r requ"):
        own_process.call("the compiler", exec, "import sys; print('no memory', file=sys.stderr); raise SystemExit(7)")


def test_a_traceback_or_a_stack_becomes_its_one_line(monkeypatch):
    raised = "Traceback (most recent call last):\n  File 'a.py', line 1\n    b()\nValueError: no such thing\n"
    said = r"died \(1\): ValueError: no such thing; \S*pip install -r requirements-preflight.txt, whose versions .*"
    assert re.fullmatch(said, own_process.death(1, raised))
    with monkeypatch.context() as on_a_tpu_vm:
        on_a_tpu_vm.setattr(wheels, "installed", {"tensorflow-tpu": "2.20.0"}.get)
        assert "install -r requirements-tpu.txt" in own_process.death(1, raised)
    aborted = (
        "I0 well\nF1127 02:40:47.3 20283 file.cc:12] Check failed: a == b\n*** SIGABRT\n    @  0x7fcf  1888  f()\n"
    )
    assert own_process.death(-6, aborted).startswith(
        "died (SIGABRT): F1127 02:40:47.3 20283 file.cc:12] Check failed: a"
    )
    assert "for want of memory" in own_process.death(-9, "") and "pip" not in own_process.death(-9, "")
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--xla_no_such_flag")
    unknown = "ERROR: Unknown command line flag 'xla_no_such_flag'\n"
    assert "'xla_no_such_flag'; unset LIBTPU_INIT_ARGS=--xla_no" in own_process.death(1, unknown)


def test_a_program_is_read_where_jax_refuses_it():
    """A Riegeli file of two blocks, in which a module begins in the first and ends in the second."""

    def field(number, value):
        return serialised._field(number, value)

    def module(operands):
        wide = field(1, b"x" * 200_000)  # over two blocks' edges
        update = field(1, b"update.1") + field(2, b"async-update") + field(36, bytes(operands)) + wide
        other = field(1, b"add.1") + field(2, b"add") + field(36, bytes([1, 2])) + b"\x2d\0\0\0\0"
        return field(1, b"a_step") + field(3, field(1, b"main") + field(2, update) + field(2, other)) + b"\x28\x07"

    record = b"head" + field(6, module([200, 1, 2, 3])) + field(6, field(1, b"a_step")) + b"tail"
    first = serialised.BLOCK - serialised.BLOCK_HEADER
    blocks = [record[at : at + first] for at in range(0, len(record), first)]
    header = serialised.SIGNATURE.ljust(serialised.BLOCK_HEADER, b"\0")
    file = b"its length" + b"".join(header + block for block in blocks)
    assert serialised.readable_module(file, "a_step") == module([200, 1])
    assert serialised.name_of(module([1])) == "a_step"
    for broken in (b"none", file[:1000]):
        with pytest.raises(ValueError, match="no "):
            serialised.readable_module(broken, "a_step")
