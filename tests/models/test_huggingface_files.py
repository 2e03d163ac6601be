"""Directories as Hugging Face's tools write them come in with equal weights, or are refused in a sentence."""

import importlib.util
import json
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import models
from models import config_files, pretrained, weight_files
from tests.helpers.places import SHARED

CASES = SHARED / "cases" / "hf_import.py"
TABLE = "transformer.wte.weight"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A small GPT-2 as Hugging Face's tools would save it: its config.json, its tensors and the model."""
    directory = tmp_path_factory.mktemp("source")
    model = models.build(models.GPT2Config(layers=2, heads=2, width=32, context=48, vocabulary_size=300), seed=3)
    pretrained.save_huggingface(model, str(directory), end_of_text=0)
    return json.loads((directory / "config.json").read_text()), load_file(directory / "model.safetensors"), model


@pytest.fixture
def write(source, tmp_path):
    """write(tensors, file=…, **keys): a directory with these tensors, and config.json with keys changed."""

    def run(tensors=None, file="model.safetensors", **keys):
        (tmp_path / "config.json").write_text(json.dumps(source[0] | keys))
        save_file(source[1] if tensors is None else tensors, tmp_path / file)
        return tmp_path

    return run


def write_shards(directory, tensors, files=2):
    """Writes tensors to several files, by turns, and the index of them."""
    names = [f"model-{number:05d}-of-{files:05d}.safetensors" for number in range(1, files + 1)]
    places = {tensor: names[place % files] for place, tensor in enumerate(tensors)}
    for name in names:
        save_file({tensor: value for tensor, value in tensors.items() if places[tensor] == name}, directory / name)
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (directory / weight_files.INDEX).write_text(json.dumps(index))
    (directory / "model.safetensors").unlink()
    return index


def check(directory):
    """What a dry run checks."""
    return pretrained.check(str(directory), pretrained.read_config(str(directory)))


def assert_comes_in(directory, expected):
    """The directory's weights are those of ``expected``, by our names, and nothing is said of others."""
    assert check(directory) == ""
    model = models.build(pretrained.read_config(str(directory)), seed=9)
    assert pretrained.load_into(model, str(directory)) == ""
    for name, value in pretrained.tensors_of(model).items():
        np.testing.assert_array_equal(value, expected[name], name)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_any_float_dtype_comes_in(source, write, dtype):
    cast = {name: value.astype(dtype) for name, value in source[1].items()}
    ours = pretrained.tensors_of(source[2])
    assert_comes_in(write(cast), {name: value.astype(dtype).astype(np.float32) for name, value in ours.items()})


@pytest.mark.parametrize("files", [1, 3])
@pytest.mark.parametrize("bare", [False, True])
def test_shards_masks_a_tied_head_and_bare_names_come_in(source, write, files, bare):
    tensors = {name.removeprefix("transformer." if bare else ""): value for name, value in source[1].items()}
    prefix = "" if bare else "transformer."
    for layer in range(2):
        tensors[f"{prefix}h.{layer}.attn.bias"] = np.tril(np.ones((1, 1, 48, 48), np.uint8))
        tensors[f"{prefix}h.{layer}.attn.masked_bias"] = np.array(-1e4, np.float32)
    tensors["lm_head.weight"] = tensors[f"{prefix}wte.weight"].copy()
    directory = write(tensors)
    write_shards(directory, tensors, files)
    assert_comes_in(directory, pretrained.tensors_of(source[2]))


def test_weights_under_both_kinds_of_names_are_refused(source, write):
    bare = {name.removeprefix("transformer."): value + 1 for name, value in source[1].items()}
    with pytest.raises(ValueError, match="wte.weight and transformer.wte.weight are both there"):
        check(write(source[1] | bare))


def test_keys_that_change_nothing_are_passed_over(source, write):
    keys = dict.fromkeys(config_files.IGNORED - {"model_type", "n_inner"}, "anything")
    keys |= {"gradient_checkpointing": False, "max_length": 50, "do_sample": True, "_attn_implementation_autoset": True}
    keys |= {"n_inner": 128, "activation_function": "gelu_pytorch_tanh", "hidden_size": 32}
    keys |= dict.fromkeys(config_files.EMPTY) | {"pruned_heads": {}}
    assert pretrained.read_config(str(write(**keys))) == source[2].config
    path = write() / "config.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert pretrained.read_config(str(path.parent)) == source[2].config


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"activation_function": "gelu"}, "activation_function='gelu'; this model computes 'gelu_new' only"),
        ({"quantization_config": {"bits": 8}}, "quantization_config=.*; this model has none"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads=.*; this model has none"),
        ({"auto_map": {"AutoModel": "code.Model"}}, "auto_map=.*; this model has none"),
        ({"hidden_size": 64}, "hidden_size=64 and n_embd=32; expected one of them"),
        ({"attention_head_type": "multiquery"}, "unknown key 'attention_head_type'"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings=False; .* ALGPT2 .* --format=native"),
    ],
)
def test_keys_that_make_another_model_are_refused(write, keys, text):
    with pytest.raises(ValueError, match=text):
        pretrained.read_config(str(write(**keys)))


def test_an_output_layer_of_its_own_is_refused(source, write):
    tensors = source[1] | {"lm_head.weight": source[1][TABLE] * np.float32(1.0001)}
    directory, text = write(tensors), f"lm_head.weight differs from {TABLE}; .* its token table"
    before = pretrained.tensors_of(source[2])
    with pytest.raises(ValueError, match=text):
        check(directory)
    with pytest.raises(ValueError, match=text):
        pretrained.load_into(source[2], str(directory))
    for name, value in pretrained.tensors_of(source[2]).items():
        np.testing.assert_array_equal(value, before[name])


def test_what_the_model_has_no_place_for_is_said(source, write):
    block = {name: value for name, value in source[1].items() if ".h.1." in name}
    further = {name.replace(".1.", f".{layer}.", 1): value for layer in (2, 3) for name, value in block.items()}
    others = {name: np.zeros(3, np.float32) for name in ("score.weight", "transformer.h.0.attn.q_norm.weight")}
    said = check(write(source[1] | further | others))
    assert said.endswith(
        "model.safetensors: not in the model, so not read: layers 2 to 3, where the configuration has 2, "
        "score.weight, transformer.h.0.attn.q_norm.weight"
    )
    assert pretrained.load_into(source[2], str(write(source[1] | further | others))) == said


def test_weights_that_are_not_there_or_of_another_format_are_refused_before_they_are_loaded(source, write):
    directory = write(source[1] | {TABLE: source[1][TABLE].astype(np.int8)})
    with pytest.raises(ValueError, match=f"{TABLE} is I8; expected one of F64, F32"):
        check(directory)
    write({name: value for name, value in source[1].items() if name != TABLE})
    with pytest.raises(ValueError, match=f"no tensor '{TABLE}'"):
        check(directory)
    with pytest.raises(ValueError, match=r"wte.weight has shape \(300, 32\); the model's token_table has \(301, 32\)"):
        check(write(vocab_size=301))
    path = directory / "model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 548105171\n")
    with pytest.raises(ValueError, match="a pointer of Git LFS .* `git lfs pull`"):
        check(directory)
    path.unlink()
    with pytest.raises(ValueError, match="no weights there; expected model.safetensors, or model.safetensors.index"):
        check(directory)
    (directory / "pytorch_model.bin").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"in pytorch_model.bin; expected model.safetensors, .*_pretrained\('NEW'\)"):
        check(directory)


def test_an_index_that_does_not_fit_its_files_is_refused(source, write):
    directory = write()
    index = write_shards(directory, source[1])
    path, (first, second) = directory / weight_files.INDEX, sorted(set(index["weight_map"].values()))
    moved = {"weight_map": index["weight_map"] | {TABLE: second if index["weight_map"][TABLE] == first else first}}
    for changed, text in (
        (moved, f"it says that model-.* holds '{TABLE}', which it does not"),
        ({"weight_map": {TABLE: "../model.safetensors"}}, "weight_map does not name a file of the directory"),
        ({"weight_map": {}}, "weight_map does not name a file"),
        ([], "expected the index of sharded weights"),
    ):
        path.write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=text):
            check(directory)
    path.write_text(json.dumps(index))
    (directory / second).write_bytes((directory / second).read_bytes()[:-8])
    with pytest.raises(ValueError, match=f"{second}: not a whole safetensors file"):
        check(directory)
    (directory / second).unlink()
    with pytest.raises(ValueError, match=f"it names {second}, which is not there; expected all 2"):
        check(directory)


REFUSED = {
    "binonly": "its weights are in pytorch_model.bin",
    "gelu": "activation_function='gelu'",
    "inner": "n_inner=64",
    "inverse": "scale_attn_by_inverse_layer_idx=True",
    "untied": "tie_word_embeddings=False",
}
COME_IN = ["plain", "bf16", "fp16", "fp64", "sharded", "bare", "gradient_checkpointing", "tokenizer_class"]
COME_IN += ["problem_type", "max_length", "gelu_pt_tanh", "attn_impl", "resized513", "padded576"]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The directories that transformers itself writes."""
    for module in ("torch", "transformers"):
        if importlib.util.find_spec(module) is None:
            pytest.skip("pip install -r requirements-torch.txt")
    if not CASES.exists():
        pytest.skip(f"{CASES.name} is not beside this checkout")
    directory = tmp_path_factory.mktemp("written")
    subprocess.run([sys.executable, CASES, directory], check=True, capture_output=True)
    return directory


@pytest.mark.cases
@pytest.mark.parametrize("name", [*REFUSED, *COME_IN])
def test_directories_of_transformers_give_its_logits_or_a_sentence(written, name):
    if name in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[name]):
            check(written / name)
        return
    assert {path.name for path in written.iterdir()} == {*REFUSED, *COME_IN}, "a case that is not expected anything of"
    import tensorflow as tf
    import torch
    import transformers

    tokens = np.random.default_rng(0).integers(0, 512, (2, 32))
    theirs = transformers.GPT2LMHeadModel.from_pretrained(written / name, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = theirs(torch.from_numpy(tokens)).logits.numpy()
    assert check(written / name) == ""
    model = models.build(pretrained.read_config(str(written / name)), seed=9)
    pretrained.load_into(model, str(written / name))
    np.testing.assert_allclose(model(tf.constant(tokens, tf.int32)), expected, atol=1e-5)
