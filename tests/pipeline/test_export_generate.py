"""Export and generation from the command line, on a small run made here."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_text  # noqa: F401  registers the tokenizer's ops, which the saved model is loaded with

import models
from models import pretrained
from pipeline.errors import UserError
from pipeline.runs import trained_model
from tests.helpers import tiny_run
from tests.helpers.hostile import NAMES


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(run directory, its model): an ALGPT2 of a few thousand weights with a tokenizer of its own."""
    path = tmp_path_factory.mktemp("run")
    model = tiny_run.write(path)
    protocol = {"text": "/home/me/wiki.test.raw", "text_sha256": "0f1e", "context": 48, "stride": 24}
    for step in (2, 3):
        document = {"figures": {"word_perplexity": 37.5 + step}, "protocol": protocol | {"step": step}}
        (path / f"evaluation-{step}.json").write_text(json.dumps(document))
    return path, model


def check_card(card, *, own_form):
    """It has the figures of these weights alone, all of their protocol, and no path of the machine."""
    assert card.startswith("---\nlibrary_name: transformers\n") and "# ALGPT2 of " in card
    assert "| word perplexity | 40.5 |" in card and "39.5" not in card
    for row in ("text | wiki.test.raw", "text\\_sha256 | 0f1e", "context | 48", "stride | 24", "step | 3"):
        assert f"| {row} |" in card, card
    assert "/home" not in card and "longest text that it reads is\n48 tokens" in card
    assert own_form == ("trust_remote_code=True" in card) == ("`modeling_algpt2.py`" in card)


@pytest.mark.slow
def test_every_format_is_written_and_agrees(run, run_module, tmp_path):
    path, model = run
    tokens = tf.constant([np.arange(48) % 200], tf.int32)
    expected = model(tokens).numpy()
    for form in ("huggingface", "huggingface_algpt2", "native", "saved_model"):
        output = tmp_path / form
        done = run_module("pipeline.export", f"--run_dir={path}", f"--format={form}", f"--output={output}")
        assert done.returncode == 0, done.stderr
        assert "wrote step 3" in done.stdout and (output / "tokenizer.json").exists()
        modes = {file.stat().st_mode for file in output.iterdir() if file.is_file()}
        assert len(modes) == 1 and modes.pop() & 0o044, "weights that only their writer can read"
        for_transformers = {"generation_config.json", "tokenizer_config.json", "README.md"}
        assert for_transformers & {file.name for file in output.iterdir()} == (
            for_transformers if form.startswith("huggingface") else set()
        )
        if form.startswith("huggingface"):
            assert json.loads((output / "tokenizer_config.json").read_text())["model_max_length"] == 48
            generation = json.loads((output / "generation_config.json").read_text())
            assert generation["eos_token_id"] == json.loads((output / "config.json").read_text())["eos_token_id"]
            check_card((output / "README.md").read_text(), own_form=form.endswith("algpt2"))
        if form == "saved_model":
            loaded = tf.saved_model.load(str(output))  # its variables live as long as it does
            logits = loaded.signatures["serving_default"](tokens)["output_0"]
        else:
            again = models.build(pretrained.read_config(str(output))) if form != "huggingface" else None
            if again is None:
                continue  # tests/models/test_pretrained.py reads it with keras-hub
            pretrained.load_into(again, str(output))
            logits = again(tokens)
        np.testing.assert_allclose(logits, expected, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_run_and_an_export_may_have_any_name(run, tmp_path, name):
    path, model = run
    shutil.copytree(path, tmp_path / name)
    read = trained_model.load(str(tmp_path / name))
    tokens = tf.constant([np.arange(48) % 200], tf.int32)
    np.testing.assert_array_equal(read.model(tokens), model(tokens))
    pretrained.save_native(read.model, str(tmp_path / name / "export"))
    again = models.build(pretrained.read_config(str(tmp_path / name / "export")))
    pretrained.load_into(again, str(tmp_path / name / "export"))
    np.testing.assert_array_equal(again(tokens), model(tokens))


def test_a_run_that_may_not_be_read_is_not_missing(run, tmp_path, as_nobody):
    path, _ = run
    shutil.copytree(path, tmp_path / "run")
    (tmp_path / "run").chmod(0o700)
    with as_nobody(), pytest.raises(UserError, match=r"run/run\.json: cannot be read \(Permission denied\)"):
        trained_model.load(str(tmp_path / "run"))


def test_bad_exports_are_refused(run, refused, tmp_path):
    path, _ = run
    assert "did you mean 'huggingface'" in refused("pipeline.export", f"--run_dir={path}", "--format=hugingface")
    assert "--output is missing" in refused("pipeline.export", f"--run_dir={path}")
    (tmp_path / "file").write_text("x")
    text = refused("pipeline.export", f"--run_dir={path}", f"--output={tmp_path}")
    assert "not an empty directory" in text
    assert "not on this machine" in refused("pipeline.export", f"--run_dir={path}", "--output=gs://bucket/model")
    new = tmp_path / "new"
    assert "no run.json" in refused("pipeline.export", f"--run_dir={tmp_path}", f"--output={new}")
    assert [file.name for file in tmp_path.iterdir()] == ["file"], "something half-written is left"


@pytest.mark.slow
def test_prompts_of_a_file_are_continued_like_one_alone(run, run_module, tmp_path):
    path, _ = run
    (tmp_path / "prompts").write_text("the cat\nthe dog sat on\n")
    greedy = (f"--run_dir={path}", "--temperature=0", "--max_tokens=8", "--repetition_penalty=1.3")
    together = run_module("pipeline.generate", *greedy, f"--prompts_file={tmp_path / 'prompts'}")
    assert together.returncode == 0, together.stderr
    typed = run_module("pipeline.generate", *greedy, "--interactive", input="the cat\nthe dog sat on\n\n")
    assert typed.stdout == together.stdout != ""
    many = run_module("pipeline.generate", f"--run_dir={path}", "--max_tokens=9999", "--prompt=the cat")
    assert "note: the model's context of" in many.stderr and many.returncode == 0


def test_bad_prompts_are_refused(run, refused, tmp_path):
    path, _ = run
    (tmp_path / "empty").write_text("\n")
    assert "one prompt per line" in refused(
        "pipeline.generate", f"--run_dir={path}", f"--prompts_file={tmp_path / 'empty'}"
    )
    assert "no such file" in refused("pipeline.generate", f"--run_dir={path}", f"--prompts_file={tmp_path / 'none'}")
    assert "exclude each other" in refused("pipeline.generate", f"--run_dir={path}", "--prompt=a", "--interactive")
