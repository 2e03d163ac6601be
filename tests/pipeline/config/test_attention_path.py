"""How attention is computed: by generation, shape and what is installed, with a reason; refusals in a sentence."""

import dataclasses

import pytest

from models.config import ALGPT2Config, GPT2Config
from pipeline.config import attention_path
from pipeline.config.train_config import TrainConfig
from pipeline.devices import slices, wheels
from pipeline.errors import UserError

SETTINGS = TrainConfig(model="gpt2", optimizer="adafactor", steps=10, global_batch=96, microbatch=4)

SMALL = GPT2Config()


@pytest.fixture(autouse=True)
def jax(monkeypatch):
    """jax is installed, whatever is installed here."""
    monkeypatch.setattr(attention_path, "installed", {"jax": "0.8.0"}.get)


def chosen(slice_name, model=SMALL, **settings):
    piece = slices.find(slice_name) if slice_name else None
    return attention_path.choose(dataclasses.replace(SETTINGS, **settings), model, piece)


@pytest.mark.parametrize("name", ["v4-8", "v5e-16", "v5p-8", "v6e-8", "v6e-1"])
def test_auto_is_fused_where_kernels_compile(name):
    path = chosen(name, GPT2Config(layers=48, heads=25, width=1600, context=8192))
    assert path.name == "fused" and path.reason.endswith("context 8,192, heads 64 wide")


@pytest.mark.parametrize(
    ("slice_name", "model", "settings", "reason"),
    [
        (None, SMALL, {}, "the fused kernels are for TPUs"),
        ("v3-128", SMALL, {}, "v3 takes no fused kernels; v4, v5e, v5p, v6e do"),
        ("v5e-8", SMALL, {"compute_dtype": "float32"}, "train.compute_dtype = 'float32': the fused"),
        ("v5e-8", GPT2Config(dropout=0.1), {}, "GPT2.dropout = 0.1: the fused kernels have no dropout"),
        ("v5e-8", GPT2Config(context=1000), {}, "GPT2.context = 1000: .* up to 8,192; the nearest is 1,024"),
        ("v5e-8", ALGPT2Config(context=9216), {}, "ALGPT2.context = 9216: .*; the nearest is 8,192"),
        ("v5e-8", GPT2Config(width=384), {}, "GPT2.width = 384 and GPT2.heads = 12 make heads 32 wide"),
    ],
)
def test_what_the_kernels_do_not_take(slice_name, model, settings, reason):
    """``auto`` falls back with a sentence, and ``fused`` is refused with the same one."""
    path = chosen(slice_name, model, **settings)
    assert path.name == "plain"
    with pytest.raises(UserError, match=f"train.attention = 'fused': {reason}.*; expected 'plain' or 'auto'"):
        chosen(slice_name, model, attention="fused", **settings)


def test_without_jax(monkeypatch):
    for module in (attention_path, wheels):
        monkeypatch.setattr(module, "installed", {"tensorflow-tpu": "2.20.0"}.get)
    path = chosen("v5e-8")
    assert path.name == "plain" and "is not installed" in path.reason and "requirements-tpu.txt" in path.reason


@pytest.mark.parametrize("attention", ["auto", "fused"])
def test_jax_need_not_be_where_a_run_is_only_planned(monkeypatch, attention):
    """`pipeline.train --dry_run`, and `tools.pod run` with it, on a laptop: the slice's hosts have jax."""
    monkeypatch.setattr(attention_path, "installed", {}.get)
    settings, piece = dataclasses.replace(SETTINGS, attention=attention), slices.find("v5e-8")
    path = attention_path.choose(settings, SMALL, piece, elsewhere=True)
    assert path.name == "fused" and path.reason.endswith("it takes jax, which is not installed here")
    with pytest.raises(UserError, match="dropout"):
        attention_path.choose(
            dataclasses.replace(settings, attention="fused"), GPT2Config(dropout=0.1), piece, elsewhere=True
        )


def test_plain_is_plain():
    assert chosen("v5e-8", attention="plain") == ("plain", "train.attention = 'plain'")
