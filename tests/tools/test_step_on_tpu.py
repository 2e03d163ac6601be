"""The page of the step on each TPU: written again from what is measured, without the compiler."""

import json
import shutil

import pytest

from pipeline.preflight.schedule import PARTS
from tests.helpers.places import ROOT

pytest.importorskip("matplotlib", reason="requirements-plots.txt is not installed")


def figures(attention):
    return {
        "model": "gpt2 (124,439,808 parameters, adafactor)",
        "context": 1024,
        "libtpu": "0.0.52",
        "seconds": dict.fromkeys(PARTS, 0.001) | {"attention": attention},
        "waits": dict.fromkeys(PARTS, 0.0005),
        "units": {"attention": ["vector ALU", 0.8]},
        "agreement": [0.93, 0.86, 1.03],
        "cycles": 0.05,
        "roofline": 0.018,
        "traffic": 8.2e9,
        "peak": 2 * 2**30,
    }


def in_jax(schedule):
    return {
        "model": "12 layers, 124,439,808 parameters",
        "context": 1024,
        "versions": {"jax": "0.10.2", "libtpu": "0.0.52", "optax": "0.2.8"},
        "schedule": schedule,
        "schedule_with_masked": schedule + 0.002,
        "kernels": 0.005,
        "waits": 0.004,
        "cycles": 0.05,
        "traffic": 13.1e9,
        "peak": 3 * 2**30,
    }


def test_the_page_is_written_from_what_is_measured(run_module, tmp_path):
    page = tmp_path / "step.md"
    measured = {"v6e-8": {"fused": figures(0.004)}, "v5e-16": {"fused": figures(0.01), "plain": figures(0.02)}}
    page.with_suffix(".json").write_text(json.dumps(measured))
    done = run_module("tools.step_on_tpu", "--slices=", f"--output={page}")
    assert done.returncode == 0, done.stderr
    lines = [line for line in page.read_text().splitlines() if line.startswith(("| v5e-16", "| v6e-8"))]
    assert lines[0] == "| v5e-16 | plain | 28.0 | 4.5 | 50.0 | 18.0 | 8.2 | 2.00 | 0.93 (0.86 to 1.03) |"
    assert [line.split(" | ")[:2] for line in lines[:3]] == [
        ["| v5e-16", "plain"],
        ["| v5e-16", "fused"],
        ["| v6e-8", "fused"],
    ]
    assert lines[3].startswith("| v5e-16 | plain | 20.00 (V 80 %) | 1.00 | ")
    picture = page.with_suffix(".svg").read_bytes()
    run_module("tools.step_on_tpu", "--slices=", f"--output={page}")
    assert page.with_suffix(".svg").read_bytes() == picture and b"<svg" in picture


def test_the_page_compares_with_jax_where_that_is_measured(run_module, refused, tmp_path):
    page, jax = tmp_path / "step.md", tmp_path / "step_in_jax.json"
    page.with_suffix(".json").write_text(json.dumps({"v5e-8": {"fused": figures(0.01), "plain": figures(0.02)}}))
    measured = {"v6e-8": {"splash": in_jax(0.01)}, "v5e-8": {"plain": in_jax(0.04), "splash": in_jax(0.03)}}
    jax.write_text(json.dumps(measured))
    done = run_module("tools.step_on_tpu", "--slices=", f"--output={page}")
    assert done.returncode == 0, done.stderr
    assert [line for line in page.read_text().splitlines() if "| ours |" in line or "| JAX |" in line] == [
        "| v5e-8 | ours | fused | 18.0 | 4.5 | 50.0 | 8.2 | 2.00 |",
        "| v5e-8 | ours | plain | 28.0 | 4.5 | 50.0 | 8.2 | 2.00 |",
        "| v5e-8 | JAX | splash | 30.0 | 4.0 | 50.0 | 13.1 | 3.00 |",
        "| v5e-8 | JAX | plain | 40.0 | 4.0 | 50.0 | 13.1 | 3.00 |",
        "| v6e-8 | JAX | splash | 10.0 | 4.0 | 50.0 | 13.1 | 3.00 |",
    ]
    assert "the schedule is 32.0 ms on v5e-8 and 12.0 ms on v6e-8" in " ".join(page.read_text().split())
    for change, said in (
        ({"model": "1 layers, 46,473,216 parameters"}, "JAX's v6e-8, splash is of another model or jax than v5e-8"),
        ({"context": 512}, "JAX's v6e-8, splash is of another context or compiler than our step"),
    ):
        jax.write_text(json.dumps(measured | {"v6e-8": {"splash": in_jax(0.01) | change}}))
        assert said in refused("tools.step_on_tpu", "--slices=", f"--output={page}")


def test_another_model_is_not_compared_with_jax(run_module, tmp_path):
    page = tmp_path / "step.md"
    ours = {"fused": figures(0.01) | {"model": "algpt2 (13,850,880 parameters, adafactor)"}}
    page.with_suffix(".json").write_text(json.dumps({"v5e-8": ours}))
    (tmp_path / "step_in_jax.json").write_text(json.dumps({"v5e-8": {"splash": in_jax(0.03)}}))
    done = run_module("tools.step_on_tpu", "--slices=", f"--output={page}")
    assert done.returncode == 0 and "is of another model" in done.stderr
    assert "Against JAX" not in page.read_text() and "algpt2" in page.read_text()


def test_what_would_spoil_the_figures_is_refused_before_it_is_measured(refused, tmp_path):
    page = tmp_path / "step.md"
    store = page.with_suffix(".json")
    store.write_text(json.dumps({"v5e-8": {"fused": figures(0.01)}}))
    before = store.read_bytes()
    said = refused("tools.step_on_tpu", "--gin_file=algpt2.gin", "--slices=v5e-8", f"--output={page}")
    assert "holds v5e-8, fused of gpt2 (124,439,808 parameters, adafactor), and this is algpt2 (13,850,880" in said
    assert store.read_bytes() == before
    store.write_text('{"v5e-8": {')
    assert "is not JSON" in refused("tools.step_on_tpu", "--slices=v5e-8", f"--output={page}")
    assert "that is a directory" in refused("tools.step_on_tpu", "--slices=", f"--output={folder(tmp_path)}")


def folder(tmp_path):
    (tmp_path / "folder.md").mkdir()
    return tmp_path / "folder.md"


def test_wrong_choices_are_refused(refused, tmp_path):
    page = f"--output={tmp_path / 'step.md'}"
    assert "no slice is called 'v5f-8'" in refused("tools.step_on_tpu", "--slices=v5f-8", page)
    assert "--slices is empty" in refused("tools.step_on_tpu", "--slices=", page)


def test_what_would_be_ignored_or_lost_after_minutes_is_refused_first(refused, tmp_path):
    page = f"--output={tmp_path / 'step.md'}"
    wrong = refused("tools.step_on_tpu", "--slices=v5e-8", page, "--gin_param=train.microbatch=8")
    assert "train.microbatch has no effect here: each core takes 4 sequences" in wrong
    none = refused("tools.step_on_tpu", "--slices=v5e-8", f"--output={tmp_path}/none/step.md")
    assert "its folder does not exist" in none
    assert "expected a file NAME.md" in refused("tools.step_on_tpu", "--slices=v5e-8", "--output=step.json")


def test_figures_of_two_models_do_not_stand_on_one_page(refused, tmp_path):
    page = tmp_path / "step.md"
    other = figures(0.01) | {"context": 4096}
    page.with_suffix(".json").write_text(json.dumps({"v6e-8": {"fused": figures(0.01)}, "v5e-16": {"fused": other}}))
    said = refused("tools.step_on_tpu", "--slices=", f"--output={page}")
    assert "v6e-8, fused is of another model or compiler than v5e-16" in said and not page.exists()


def test_the_page_of_the_repository_is_written_from_the_figures_beside_it(run_module, tmp_path):
    for name in ("step_on_tpu.json", "step_in_jax.json"):
        shutil.copy(ROOT / "docs" / name, tmp_path)
    done = run_module("tools.step_on_tpu", "--slices=", f"--output={tmp_path / 'step_on_tpu.md'}")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "step_on_tpu.md").read_text() == (ROOT / "docs" / "step_on_tpu.md").read_text()
