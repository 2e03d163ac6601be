"""Cells: known by the configuration they come to, checked before anything runs, without what they do not use."""

import dataclasses

import pytest

from pipeline.data.format import manifest
from pipeline.errors import UserError
from tools.sweep import cells
from tools.sweep.cells import Base

BASE = Base(gin_files=("algpt2.gin",), gin_params=(), data="", tpu="pod-128")


def key(overrides, base=BASE):
    (cell,) = cells.resolve(base, [overrides])
    return cell.key


def test_a_cell_is_the_same_however_it_is_put():
    same = [
        {"Adafactor.learning_rate": 1e-3},
        {"Adafactor.learning_rate": 0.001, "train.model": "algpt2"},
        {"train.model": "algpt2-base", "Adafactor.learning_rate": 1e-3, "train.seed": 0},
    ]
    assert len({key(overrides) for overrides in same}) == 1
    assert len(cells.resolve(BASE, same)) == 1
    assert key({}, Base(gin_files=("algpt2.gin",), gin_params=("Adafactor.learning_rate=1e-3",), data="", tpu=None))
    assert key(same[0]) != key({"Adafactor.learning_rate": 2e-3})
    assert key(same[0]) != key(same[0] | {"train.seed": 1})
    assert key(same[0]) == key(same[0] | {"train.wandb": "off", "train.checkpoint_every": 7}), "it would go on"


def test_attention_makes_another_cell_for_a_sweep_may_compare_its_speed():
    base = dataclasses.replace(BASE, tpu="v5e-16")
    found = cells.resolve(base, [{"train.attention": name} for name in ("auto", "plain", "fused")])
    assert len({cell.key for cell in found}) == 3
    assert found[0].key == key({}, base)
    with pytest.raises(UserError, match="train.attention = 'fused': v3 takes no fused kernels"):
        cells.resolve(BASE, [{"train.attention": "fused"}])


def test_cells_that_are_one_run_in_spite_of_a_setting_are_said(capsys):
    combinations = [{"train.checkpoint_every": every, "train.seed": seed} for every in (50, 100) for seed in (0, 1)]
    assert len(cells.resolve(BASE, combinations)) == 2
    assert "differ only in checkpoint_every are one run, which takes the first value" in capsys.readouterr().err
    cells.resolve(BASE, [{"train.checkpoint_every": 50, "train.seed": seed} for seed in (0, 1, 1)])
    assert not capsys.readouterr().err


@pytest.fixture
def on_data(small_data):
    """The base of a small run on the manifest of real shards, of which fields may be changed."""
    there = manifest.load(str(small_data))

    def make(data="here", *parameters, **changes):
        tokenizer = dataclasses.replace(there.tokenizer, **changes)
        return Base(
            gin_files=("quickstart.gin",),
            gin_params=("ALGPT2.context=32", "train.warmup_steps=0", *parameters),
            data=data,
            tpu=None,
            manifest=dataclasses.replace(there, tokenizer=tokenizer),
        )

    return make


def test_data_are_known_by_what_they_hold_and_not_by_where_they_lie(on_data):
    assert key({}, on_data("here")) == key({}, on_data("gs://b/there"))
    assert key({}, on_data()) != key({}, on_data(fingerprint="another"))
    vocabulary = on_data().manifest.tokenizer.vocabulary_size
    assert key({}, on_data()) == key({"ALGPT2.vocabulary_size": vocabulary}, on_data())


def test_data_that_do_not_fit_are_named_with_the_setting(on_data):
    with pytest.raises(UserError, match="--data=here: ALGPT2.context 384 does not divide the records'"):
        cells.resolve(on_data("here", "ALGPT2.context=384"), [{}])


def test_one_pass_over_the_data_is_its_number_of_steps(on_data):
    sequences = on_data().manifest.part("train").records * 2  # records of 64 tokens
    assert key({"train.steps": -1}, on_data()) == key({"train.steps": sequences // 16}, on_data())


def test_a_preflight_is_told_what_the_data_decide(on_data):
    (cell,) = cells.resolve(on_data("here", "train.steps=-1"), [{}])
    assert cell.run.settings.steps > 0
    assert cell.run.model.vocabulary_size == on_data().manifest.tokenizer.vocabulary_size
    assert not any("vocabulary" in argument for argument in cell.arguments)


def test_a_model_comes_with_its_size():
    resolved = cells.resolve(BASE, [{"train.model": name} for name in ("algpt2", "gpt2", "gpt2-medium", "algpt2-xl")])
    assert "--gin_file=models/gpt2-small.gin" in resolved[1].arguments
    assert "--gin_file=models/gpt2-medium.gin" in resolved[2].arguments
    assert not any("models/" in argument for argument in resolved[0].arguments), "the run file sizes it"
    assert len({cell.key for cell in resolved}) == len({cell.program for cell in resolved}) == 4


def test_an_override_of_a_part_that_a_cell_does_not_use_is_left_out_of_it():
    grid = [{"train.model": model, "ALGPT2.embedding": e} for model in ("algpt2", "gpt2") for e in (64, 128)]
    resolved = cells.resolve(BASE, grid)
    assert [cell.overrides for cell in resolved] == [*grid[:2], {"train.model": "gpt2"}]
    with pytest.raises(UserError, match="no cell uses AdamW.learning_rate"):
        cells.resolve(BASE, [{"AdamW.learning_rate": 1e-3}])


def test_models_and_optimizers_that_the_sweep_varies_are_bound_for_all_of_it():
    """On the command line or in a file; each cell's own command line then has what it uses."""
    base = dataclasses.replace(BASE, gin_params=("AdamW.learning_rate=1e-3", "AdamW.beta1=0.8"))
    resolved = cells.resolve(base, [{"train.optimizer": name} for name in ("adafactor", "adamw")])
    assert ["--gin_param=AdamW.beta1=0.8" in cell.arguments for cell in resolved] == [False, True]
    with pytest.raises(UserError, match="no cell uses AdamW.learning_rate"):
        cells.resolve(base, [{"train.optimizer": "adafactor"}, {}])


def test_seeds_are_cells_like_any_other():
    """Only the first of them is resolved from its gin files; the others differ in nothing but the seed."""
    base = dataclasses.replace(BASE, gin_params=("train.steps=5000",))
    overrides = [{"Adafactor.learning_rate": rate, "train.seed": seed} for rate in (1e-3, 1e-4) for seed in range(500)]
    resolved = cells.resolve(base, overrides)
    assert [cell.overrides for cell in resolved] == overrides
    for index in (0, 1, 499, 500, 999):
        assert resolved[index] == cells.resolve(base, [overrides[index]])[0]
    with pytest.raises(UserError, match="of at most 64 bits"):
        cells.resolve(base, [{"train.seed": 0}, {"train.seed": 2**70}])


def test_cells_that_differ_in_seed_and_rate_share_a_program():
    rates = [{"Adafactor.learning_rate": rate, "train.seed": seed} for rate in (1e-3, 1e-4) for seed in (0, 1)]
    assert len({cell.program for cell in cells.resolve(BASE, rates)}) == 1
    assert len({cell.program for cell in cells.resolve(BASE, [{"train.microbatch": m} for m in (1, 2, 4)])}) == 3


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"train.model": "algpt3"}, r"train.model = 'algpt3': expected some of .*did you mean 'algpt2'"),
        ({"Adafactor.learning_rat": 1}, r"no parameter 'learning_rat' \(did you mean 'learning_rate'"),
        ({"Adafacto.learning_rate": 1}, r"nothing is called 'Adafacto' \(did you mean 'Adafactor'"),
        ({"Adafactor.learning_rate": "fast"}, "expected a number"),
        ({"train.global_batch": 100}, "100"),
    ],
)
def test_one_wrong_cell_refuses_the_sweep(overrides, message):
    with pytest.raises(UserError, match=message):
        cells.resolve(BASE, [{"train.seed": 1}, overrides])
