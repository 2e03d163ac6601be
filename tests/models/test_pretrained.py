"""Weights out and in again: Hugging Face's format, OpenAI's, our own; and everything that is refused."""

import dataclasses
import json
import sys

import numpy as np
import pytest
import tensorflow as tf

import models
from models import pretrained

OPTIONAL = "pip install -r requirements-torch.txt"


def fresh(directory, **changes):
    """A model as the files describe it, with their weights."""
    model = models.build(dataclasses.replace(pretrained.read_config(str(directory)), **changes), seed=9)
    pretrained.load_into(model, str(directory))
    return model


def test_gpt2_comes_back_from_huggingface_bit_for_bit(small_model, tools, tmp_path):
    model = small_model("gpt2")
    pretrained.save_huggingface(model, str(tmp_path), end_of_text=7)
    again = fresh(tmp_path)
    assert again.config == model.config
    for ours, theirs in zip(model.trainable_variables, again.trainable_variables, strict=True):
        np.testing.assert_array_equal(ours, theirs, ours.path)
    assert json.loads((tmp_path / "config.json").read_text())["eos_token_id"] == 7


@pytest.mark.parametrize("name", ["gpt2", "algpt2", "algpt2-unfactorized"])
def test_our_own_format_loses_nothing(small_model, name, tmp_path):
    model = small_model(name, dropout=0.1, remat="full")
    pretrained.save_native(model, str(tmp_path))
    again = fresh(tmp_path)
    assert again.config == model.config
    for ours, theirs in zip(model.trainable_variables, again.trainable_variables, strict=True):
        np.testing.assert_array_equal(ours, theirs, ours.path)


def read_as_any_gpt2_runtime(directory, tokens):
    """Logits by keras-hub's GPT-2 from the exported files alone, its head included."""
    from keras_hub.models import GPT2Backbone
    from safetensors.numpy import load_file

    c, w = json.loads((directory / "config.json").read_text()), load_file(directory / "model.safetensors")
    heads, width = c["n_head"], c["n_embd"]
    twin = GPT2Backbone(
        vocabulary_size=c["vocab_size"],
        num_layers=c["n_layer"],
        num_heads=heads,
        hidden_dim=width,
        intermediate_dim=4 * width,
        max_sequence_length=c["n_positions"],
        dropout=0.0,
    )
    values = [w["transformer.wte.weight"], w["transformer.wpe.weight"]]
    for layer in range(c["n_layer"]):
        get = lambda name, layer=layer: w[f"transformer.h.{layer}.{name}"]  # noqa: E731
        kernels, biases = np.split(get("attn.c_attn.weight"), 3, 1), np.split(get("attn.c_attn.bias"), 3)
        for kernel, bias in zip(kernels, biases, strict=True):
            values += [kernel.reshape(width, heads, -1), bias.reshape(heads, -1)]
        values += [get("attn.c_proj.weight").reshape(heads, -1, width), get("attn.c_proj.bias")]
        values += [
            get(f"{part}.{kind}") for part in ("ln_1", "mlp.c_fc", "mlp.c_proj", "ln_2") for kind in ("weight", "bias")
        ]
    twin.set_weights([*values, w["transformer.ln_f.weight"], w["transformer.ln_f.bias"]])
    head = w["transformer.wte.weight"] if c["tie_word_embeddings"] else w["lm_head.weight"]
    return twin({"token_ids": tokens, "padding_mask": tf.ones_like(tokens)}).numpy() @ head.T


@pytest.mark.parametrize("name", ["gpt2", "algpt2", "algpt2-unfactorized"])
def test_the_export_computes_the_same_logits_in_keras_hub(small_model, tools, name, tmp_path):
    model, tokens = small_model(name), tools.random_tokens(2, 48)
    note = pretrained.save_huggingface(model, str(tmp_path), end_of_text=0)
    expected = model(tokens).numpy()
    assert expected.std() > 0.1
    np.testing.assert_allclose(read_as_any_gpt2_runtime(tmp_path, tokens), expected, atol=1e-4)
    assert note


def test_the_export_computes_the_same_logits_in_transformers(small_model, tools, tmp_path):
    torch = pytest.importorskip("torch", reason=OPTIONAL)
    transformers = pytest.importorskip("transformers", reason=OPTIONAL)
    for name in ("gpt2", "algpt2"):
        model, tokens = small_model(name), tools.random_tokens(2, 48)
        pretrained.save_huggingface(model, str(tmp_path / name), end_of_text=0)
        theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / name).eval()
        with torch.no_grad():
            logits = theirs(torch.from_numpy(tokens.numpy().astype(np.int64))).logits.numpy()
        np.testing.assert_allclose(logits, model(tokens), atol=1e-4)


@pytest.mark.parametrize("name", ["algpt2", "algpt2-unfactorized"])
def test_algpt2s_own_form_loses_nothing_and_is_small(small_model, name, tmp_path):
    model = small_model(name)
    note = pretrained.save_algpt2(model, str(tmp_path), end_of_text=7)
    assert "trust_remote_code" in note
    again = fresh(tmp_path)
    assert again.config == model.config
    for ours, theirs in zip(model.trainable_variables, again.trainable_variables, strict=True):
        np.testing.assert_array_equal(ours, theirs, ours.path)
    described = json.loads((tmp_path / "config.json").read_text())
    for target in described["auto_map"].values():
        module, _, kind = target.partition(".")
        assert f"\nclass {kind}(" in (tmp_path / f"{module}.py").read_text()
    del described["embedding_size"]
    (tmp_path / "config.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match="no embedding_size"):
        pretrained.read_config(str(tmp_path))
    with pytest.raises(ValueError, match="is a GPT-2.* --format=huggingface"):
        pretrained.save_algpt2(small_model("gpt2"), str(tmp_path / "new"), end_of_text=7)


@pytest.mark.parametrize("name", ["algpt2", "algpt2-unfactorized"])
def test_algpt2s_own_form_computes_the_same_logits_in_transformers(small_model, tools, name, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch", reason=OPTIONAL)
    transformers = pytest.importorskip("transformers", reason=OPTIONAL)
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    model, tokens = small_model(name), tools.random_tokens(2, 48)
    pretrained.save_algpt2(model, str(tmp_path / "own"), end_of_text=0)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "own", trust_remote_code=True).eval()
    assert theirs.num_parameters() == model.config.parameters()
    assert theirs.config.max_position_embeddings == 48
    ids, expected = torch.from_numpy(tokens.numpy().astype(np.int64)), model(tokens).numpy()
    with torch.no_grad():
        whole = theirs(ids, labels=ids)
        np.testing.assert_allclose(whole.logits, expected, atol=1e-4)
        mean = torch.nn.functional.cross_entropy(whole.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        np.testing.assert_allclose(whole.loss, mean, rtol=1e-5)
        start = theirs(ids[:, :20])
        rest = theirs(ids[:, 20:], past_key_values=start.past_key_values).logits
        np.testing.assert_allclose(rest, expected[:, 20:], atol=1e-4)
        padded = torch.nn.functional.pad(ids[:, :40], (8, 0))
        mask = torch.nn.functional.pad(torch.ones_like(ids[:, :40]), (8, 0))
        left = theirs(padded, attention_mask=mask).logits[:, 8:]
        np.testing.assert_allclose(left, expected[:, :40], atol=1e-4)
        with pytest.raises(ValueError, match="49 tokens; expected at most 48, the model's context"):
            theirs(torch.zeros(1, 49, dtype=torch.int64))
        greedy = {"do_sample": False, "max_new_tokens": 8, "pad_token_id": 0, "eos_token_id": None}
        cached, whole = (
            theirs.generate(padded, attention_mask=mask, use_cache=cache, **greedy) for cache in (True, False)
        )
    np.testing.assert_array_equal(cached, whole)


def test_an_output_bias_without_counterpart_is_refused(small_model, tmp_path):
    model = small_model("algpt2")
    model.leave_kernel.assign(tf.zeros_like(model.leave_kernel))
    with pytest.raises(ValueError, match="native"):
        pretrained.save_huggingface(model, str(tmp_path), end_of_text=0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("folder", ["774M", "gpt2 [774M]"])
def test_openais_checkpoint_is_read(small_model, tools, tmp_path, folder):
    tmp_path = tmp_path / folder
    tmp_path.mkdir()
    model = small_model("gpt2")
    saved = {}
    for name, tensor in pretrained.tensors_of(model).items():
        theirs = pretrained.openai_name(name)
        saved[theirs] = tf.Variable(tensor[None] if theirs.endswith("/w") else tensor)
    assert {"model/wte", "model/h1/attn/c_attn/w", "model/h0/ln_2/g", "model/ln_f/b", "model/h1/mlp/c_proj/b"} <= {
        *saved
    }
    tf.compat.v1.train.Saver(saved).save(None, str(tmp_path / "model.ckpt"))
    c = model.config
    hparams = {
        "n_vocab": c.vocabulary_size,
        "n_ctx": c.context,
        "n_embd": c.width,
        "n_head": c.heads,
        "n_layer": c.layers,
    }
    (tmp_path / "hparams.json").write_text(json.dumps(hparams))
    tokens = tools.random_tokens(1, 48)
    np.testing.assert_array_equal(fresh(tmp_path)(tokens), model(tokens))
    assert pretrained.check(str(tmp_path), c) == ""
    (tmp_path / "hparams.json").write_text(json.dumps(hparams | {"n_layer": 1}))
    said = pretrained.load_into(models.build(dataclasses.replace(c, layers=1)), str(tmp_path))
    assert said.endswith("not read: layer 1, where the configuration has 1")
    (tmp_path / "model.ckpt.index").unlink()
    with pytest.raises(ValueError, match=r"hparams.json without a TensorFlow checkpoint's \*.index"):
        pretrained.check(str(tmp_path), c)


def test_names_without_the_prefix_and_shorter_positions(small_model, tools, tmp_path):
    from safetensors.numpy import load_file, save_file

    model = small_model("gpt2")
    pretrained.save_huggingface(model, str(tmp_path), end_of_text=0)
    path = tmp_path / "model.safetensors"
    save_file({name.removeprefix("transformer."): tensor for name, tensor in load_file(path).items()}, path)
    tokens = tools.random_tokens(1, 20)
    np.testing.assert_allclose(fresh(tmp_path, context=20)(tokens), model(tokens), atol=1e-6)


def test_another_shape_names_the_first_tensor_and_assigns_nothing(small_model, tmp_path):
    pretrained.save_huggingface(small_model("gpt2"), str(tmp_path), end_of_text=0)
    wider = small_model("gpt2", width=64)
    before = [variable.numpy() for variable in wider.trainable_variables]
    with pytest.raises(ValueError, match=r"wte.weight has shape \(300, 32\); the model's token_table has \(300, 64\)"):
        pretrained.load_into(wider, str(tmp_path))
    longer = small_model("gpt2", context=64)
    with pytest.raises(ValueError, match="wpe.weight"):
        pretrained.load_into(longer, str(tmp_path))
    with pytest.raises(ValueError, match="wte.weight"):
        pretrained.load_into(small_model("gpt2", vocabulary_size=301), str(tmp_path))
    with pytest.raises(ValueError, match="no tensor .*h.2.ln_1.weight"):
        pretrained.load_into(small_model("gpt2", layers=3), str(tmp_path))
    for variable, value in zip(wider.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("save", ["native", "huggingface"])
def test_weights_that_are_not_finite_are_refused_and_assign_nothing(small_model, tmp_path, save, value):
    from safetensors.numpy import load_file, save_file

    model = small_model("gpt2")
    before = [variable.numpy() for variable in model.trainable_variables]
    if save == "native":
        pretrained.save_native(model, str(tmp_path))
    else:
        pretrained.save_huggingface(model, str(tmp_path), end_of_text=0)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    name = sorted(tensors)[-1]
    tensors[name].flat[-1] = value
    save_file(tensors, path)
    with pytest.raises(ValueError, match=rf"^{path}: {name} holds NaN or infinity"):
        pretrained.load_into(model, str(tmp_path))
    for variable, kept in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable, kept)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"n_heads": 2}, "unknown key 'n_heads' .did you mean 'n_head'"),
        ({"activation_function": "relu"}, "activation_function='relu'; this model computes 'gelu_new' only"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings=False"),
        ({"n_inner": 100}, "n_inner=100; expected 4 · n_embd = 128"),
        ({"model_type": "llama"}, "model_type='llama'"),
        ({"n_head": 5}, "heads=5 do not divide width=32"),
    ],
)
def test_configurations_of_other_models_are_refused(small_model, tmp_path, change, text):
    pretrained.save_huggingface(small_model("gpt2"), str(tmp_path), end_of_text=0)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=text):
        pretrained.read_config(str(tmp_path))


def test_truncated_and_missing_files_are_refused(small_model, tmp_path):
    model = small_model("gpt2")
    with pytest.raises(ValueError, match="config.json"):
        pretrained.read_config(str(tmp_path))
    pretrained.save_huggingface(model, str(tmp_path), end_of_text=0)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        pretrained.load_into(model, str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="expected the JSON description"):
        pretrained.read_config(str(tmp_path))
