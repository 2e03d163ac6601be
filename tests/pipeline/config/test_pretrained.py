"""train.pretrained: what the directory says against what gin says, weights in, and everything that is refused."""

import dataclasses
import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import models
from models import pretrained as files
from pipeline.config import gin_reader, pretrained
from pipeline.config.train_config import TrainConfig
from pipeline.data.format import tokenizer as tokenizers
from pipeline.errors import UserError
from pipeline.runs.checkpoints import Checkpoints, state_of
from pipeline.runs.run_directory import RunDirectory, as_json

TEXTS = ["the cat sat on the mat and the dog sat on the log"] * 20
SIZES = {"layers": 2, "heads": 2, "width": 32, "context": 48, "vocabulary_size": 300}
GPT2 = models.GPT2Config(**SIZES)
ALGPT2 = models.ALGPT2Config(**SIZES, embedding=16, dropout=0.1)


def chosen(directory, *parameters, model="gpt2"):
    """The model's configuration that gin and a directory make together."""
    return configured(directory, *parameters, model=model)[1]


def configured(directory, *parameters, model):
    """All that is configured, and the model's configuration in it."""
    required = ("train.optimizer=adamw", "train.steps=1", "train.global_batch=8", "train.microbatch=8")
    parameters = (f"train.model={model}", f"train.pretrained={str(directory)!r}", *required, *parameters)
    configuration = gin_reader.load([], parameters)
    return configuration, pretrained.model_config(configuration, configuration.get(TrainConfig))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Writes a GPT-2 in Hugging Face's format; returns the directory and the model."""
    directory, model = tmp_path_factory.mktemp("exported"), models.build(GPT2, seed=3)
    files.save_huggingface(model, str(directory), end_of_text=0)
    return directory, model


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's directory with an ALGPT2 in a checkpoint; returns it and the model."""
    path, model = tmp_path_factory.mktemp("run"), models.build(ALGPT2, seed=4)
    directory = RunDirectory(str(path))
    directory.write_json("run.json", {"model": as_json(ALGPT2)})
    directory.write("tokenizer.json", tokenizers.train(TEXTS, 265, "tiny").data.decode())
    checkpoints = Checkpoints(directory.join("checkpoints"), state_of(model))
    checkpoints.save(3, {})
    checkpoints.wait()
    return path, model


def test_the_directory_gives_the_size_and_gin_the_rest(exported, run):
    assert chosen(exported[0]) == GPT2
    assert chosen(exported[0], "GPT2.layers=2", "GPT2.dropout=0.2") == dataclasses.replace(GPT2, dropout=0.2)
    configuration, shorter = configured(run[0], "ALGPT2.context=24", "ALGPT2.remat=full", model="algpt2")
    assert shorter == dataclasses.replace(ALGPT2, context=24, remat="full")
    assert f"# train.pretrained = {run[0]}" in configuration.provenance(shorter)


def test_weights_come_in_with_positions_shortened(exported, run):
    for (directory, source), wanted in ((exported, GPT2), (run, ALGPT2)):
        model = models.build(dataclasses.replace(wanted, context=24), seed=9)
        pretrained.load_into(model, str(directory))
        for ours, theirs in zip(model.trainable_variables, source.trainable_variables, strict=True):
            rows = ours.shape[0]
            np.testing.assert_array_equal(ours, theirs[:rows], ours.path)
            assert rows == theirs.shape[0] or "position_table" in ours.path


@pytest.mark.parametrize(
    ("parameter", "model", "text"),
    [
        ("GPT2.layers=3", "gpt2", r"--gin_param=GPT2.layers=3: layers = 3, but the model in .* has 2; leave it out"),
        ("GPT2.context=64", "gpt2", "context = 64; .* only 48 positions"),
        ("GPT2.vocabulary_size=301", "gpt2", "vocabulary_size = 301, but .* has 300"),
        ("ALGPT2.layers=2", "algpt2", "train.model = 'algpt2', but .* of kind 'gpt2'"),
    ],
)
def test_what_contradicts_the_directory_is_refused(exported, parameter, model, text):
    with pytest.raises(UserError, match=text):
        chosen(exported[0], parameter, model=model)


def test_directories_without_a_model_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"no model there; expected run.json .* config.json .* hparams.json"):
        chosen(tmp_path)
    (tmp_path / "run.json").write_text('{"model": {"kind": "GPT3"}}')
    with pytest.raises(UserError, match="run.json is damaged"):
        chosen(tmp_path)


def test_weights_that_are_not_whole_are_refused(exported, tmp_path):
    for path in exported[0].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes()[: None if path.name == "config.json" else -8])
    with pytest.raises(UserError, match=r"train.pretrained: .*model.safetensors: not a whole safetensors file"):
        pretrained.load_into(models.build(GPT2), str(tmp_path))
    described = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**described, "n_haed": 2}))
    with pytest.raises(UserError, match="unknown key 'n_haed' .did you mean 'n_head'"):
        chosen(tmp_path)


def test_a_dry_run_says_what_is_wrong_with_the_weights(exported, run, tmp_path, capsys):
    """What it reads of the model is what the command line does before it imports TensorFlow."""
    weights, path = load_file(exported[0] / files.WEIGHTS), tmp_path / files.WEIGHTS
    (tmp_path / "config.json").write_bytes((exported[0] / "config.json").read_bytes())
    with pytest.raises(UserError, match=r"train.pretrained: .*no weights there; expected model.safetensors"):
        chosen(tmp_path)
    save_file(weights | {"lm_head.weight": weights["transformer.wte.weight"] + 1}, path)
    with pytest.raises(UserError, match=r"lm_head.weight differs from transformer.wte.weight"):
        chosen(tmp_path)
    save_file(weights | {"score.weight": np.zeros((2, 32), np.float32)}, path)
    assert chosen(tmp_path) == chosen(tmp_path) == GPT2
    pretrained.load_into(models.build(GPT2), str(tmp_path))
    said = capsys.readouterr().err
    assert said == f"warning: train.pretrained: {path}: not in the model, so not read: score.weight\n"
    (tmp_path / "run.json").write_bytes((run[0] / "run.json").read_bytes())
    with pytest.raises(UserError, match="no whole checkpoint there; expected a run that saved one"):
        chosen(tmp_path, model="algpt2")


def test_an_algpt2_that_was_exported_is_told_which_format_comes_back(run, tmp_path):
    files.save_huggingface(run[1], str(tmp_path / "factorized"), end_of_text=0)
    with pytest.raises(UserError, match=r"tie_word_embeddings=False; .* ALGPT2 .* --format=native"):
        chosen(tmp_path / "factorized", model="algpt2")
    whole = models.build(dataclasses.replace(ALGPT2, embedding=None), seed=4)
    files.save_huggingface(whole, str(tmp_path / "whole"), end_of_text=0)
    with pytest.raises(UserError, match=r"of kind 'gpt2'; an ALGPT2 comes back from its run, .* --format=native"):
        chosen(tmp_path / "whole", model="algpt2")
    files.save_native(run[1], str(tmp_path / "native"))
    assert chosen(tmp_path / "native", model="algpt2") == ALGPT2
    with pytest.raises(UserError, match="of kind 'algpt2'; expected train.model = 'algpt2'"):
        chosen(tmp_path / "native", model="gpt2")


@pytest.mark.parametrize("name", ["vocab.json", "encoder.json"])
def test_data_are_compared_with_the_vocabularies_of_older_directories_too(tmp_path, name):
    tokenizer = tokenizers.train(TEXTS, 265, "same")
    vocabulary = tokenizer.oracle.get_vocab()
    del vocabulary["<|endoftext|>"]  # an added token, which such a file may lack
    (tmp_path / name).write_text(json.dumps(vocabulary))
    pretrained.check_tokenizer(str(tmp_path), tokenizer)
    first, second = list(vocabulary)[:2]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (tmp_path / name).write_text(json.dumps(vocabulary))
    with pytest.raises(UserError, match=rf"token \d+ is .* there and .* in the data .*{name}"):
        pretrained.check_tokenizer(str(tmp_path), tokenizer)
    (tmp_path / name).write_text("[1]")
    with pytest.raises(UserError, match="expected a vocabulary, tokens with their ids"):
        pretrained.check_tokenizer(str(tmp_path), tokenizer)


def test_data_of_another_tokenizer_are_refused(exported, run):
    same = tokenizers.train(TEXTS, 265, "same")
    pretrained.check_tokenizer(str(run[0]), same)
    pretrained.check_tokenizer(str(exported[0]), same)  # no tokenizer.json there
    settings = json.loads(same.data)
    settings["truncation"] = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
    pretrained.check_tokenizer(str(run[0]), tokenizers.Tokenizer("cut", json.dumps(settings).encode()))
    settings["normalizer"] = {"type": "Lowercase"}
    with pytest.raises(UserError, match="gives a text other ids"):
        pretrained.check_tokenizer(str(run[0]), tokenizers.Tokenizer("lower", json.dumps(settings).encode()))
    other = tokenizers.train(["a quite different text, of other words"] * 20, 265, "other")
    with pytest.raises(UserError, match=r"token \d+ is .* there and .* in the data .tokenizer other."):
        pretrained.check_tokenizer(str(run[0]), other)
