"""The bulk engine gives the oracle's ids on hostile text, and no vocabulary is taken on trust."""

import json
import subprocess
import sys

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from pipeline.data.format import tokenizer as tokenizers
from pipeline.errors import UserError
from tests.helpers.hostile import TEXTS
from tests.helpers.places import ROOT


@pytest.fixture(scope="module")
def gpt2():
    return tokenizers.load("gpt2")


@pytest.fixture(scope="module")
def trained():
    texts = [f"def function_{i}(value): return value + {i}  # naïve café № {i}\n" for i in range(300)]
    return tokenizers.train(texts, 300, "own")


def test_gpt2_is_gpt2(gpt2):
    assert (gpt2.vocabulary_size, gpt2.end_of_text, gpt2.splittable) == (50_257, 50_256, True)
    assert gpt2.encode("Hello, I'm a language model,") == [15496, 11, 314, 1101, 257, 3303, 2746, 11]
    assert gpt2.decode([*gpt2.encode("Hello world, naïve ②!"), 50_256]) == "Hello world, naïve ②!<|endoftext|>"


def test_text_cannot_forge_the_end_of_a_document(gpt2):
    ids, _ = gpt2.encode_batch(["a<|endoftext|>b"])
    assert gpt2.end_of_text not in ids
    assert gpt2.encode("a<|endoftext|>b") == ids.tolist()
    assert gpt2.decode(ids) == "a<|endoftext|>b"


@hypothesis.settings(max_examples=400, deadline=None)
@hypothesis.given(texts=st.lists(TEXTS, min_size=1, max_size=5))
def test_the_bulk_engine_agrees_with_the_oracle(gpt2, trained, texts):
    for tokenizer in (gpt2, trained):
        ids, offsets = tokenizer.encode_batch(texts)
        for text, start, stop in zip(texts, offsets, offsets[1:], strict=False):
            assert ids[start:stop].tolist() == tokenizer.encode(text)
            assert tokenizer.decode(ids[start:stop]) == text


@hypothesis.settings(max_examples=400, deadline=None)
@hypothesis.given(text=TEXTS, share=st.floats(0, 1))
def test_a_text_may_be_cut_at_a_split_point(gpt2, trained, text, share):
    place = tokenizers.split_point(text, int(share * len(text)))
    assert 0 <= place <= share * len(text)
    for tokenizer in (gpt2, trained):
        assert tokenizer.encode(text[:place]) + tokenizer.encode(text[place:]) == tokenizer.encode(text)


def test_split_points_are_found_in_prose_and_not_in_a_word():
    assert tokenizers.split_point("some words, and more", 13) == 10
    assert tokenizers.split_point("unbroken" * 100, 500) == 0


def test_a_worker_keeps_to_one_core():
    """Threads of the engine's own would fight with the other workers and hold a cache each."""
    script = """
import os
from pipeline.data.format import tokenizer
gpt2 = tokenizer.load("gpt2")
gpt2.warm_up()
before = len(os.listdir("/proc/self/task"))
gpt2.encode_batch(["some words " * 2_000] * 500)
assert len(os.listdir("/proc/self/task")) == before
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def test_training_is_deterministic_and_exact(trained):
    texts = [f"def function_{i}(value): return value + {i}  # naïve café № {i}\n" for i in range(300)]
    assert tokenizers.train(texts, 300, "own").data == trained.data
    assert (trained.vocabulary_size, trained.end_of_text) == (300, 0)
    assert len(trained.encode(texts[7])) < len(texts[7].encode())


def test_the_file_decides_everything(tmp_path, trained):
    (tmp_path / "mine.json").write_bytes(trained.data)
    loaded = tokenizers.load(str(tmp_path / "mine.json"))
    assert (loaded.name, loaded.fingerprint, loaded.end_of_text) == ("mine", trained.fingerprint, 0)
    np.testing.assert_array_equal(loaded.encode_batch(["naïve"])[0], trained.encode("naïve"))


def changed(tokenizer, change):
    data = json.loads(tokenizer.data)
    change(data)
    return json.dumps(data).encode()


def too_large(data):
    data["model"]["vocab"] |= {f"word{i}": 300 + i for i in range(65_300)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (too_large, "has 65600 ids; records hold uint16, so at most 65536"),
        (lambda data: data.update(added_tokens=[]), "has no end-of-text token"),
        (lambda data: data.pop("model"), "not a tokenizer.json of a BPE model"),
    ],
)
def test_unfit_vocabularies_are_refused(trained, change, message):
    with pytest.raises(UserError, match=message):
        tokenizers.Tokenizer("other", changed(trained, change))


def test_the_end_of_text_is_read_never_assumed(trained):
    def rename(data):
        data["added_tokens"][0]["content"] = "</s>"
        data["added_tokens"][0]["id"] = 7

    assert tokenizers.Tokenizer("other", changed(trained, rename)).end_of_text == 7


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.update(normalizer={"type": "NFC"}),
        lambda data: data["model"].update(dropout=0.1),
        lambda data: data["pre_tokenizer"].update(add_prefix_space=True),
        lambda data: data["pre_tokenizer"].update(use_regex=False),
        lambda data: data["added_tokens"].append(dict(data["added_tokens"][0], content="foo bar", id=9, special=False)),
    ],
)
def test_only_gpt2s_own_pattern_may_be_split(trained, change):
    assert not tokenizers.Tokenizer("other", changed(trained, change)).splittable


def test_missing_names_and_sizes_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"no tokenizer 'gtp2'.*did you mean 'gpt2'"):
        tokenizers.load("gtp2")
    with pytest.raises(UserError, match=r"gives only 2\d\d of 8192 tokens"):
        tokenizers.train(["abc abc"], 8192, "own")
    with pytest.raises(UserError, match="out of range"):
        tokenizers.train(["abc"], 70_000, "own")


def test_damaged_gpt2_files_are_refused(monkeypatch):
    monkeypatch.setitem(tokenizers.GPT2_SHA256, "vocab.bpe", "0" * 64)
    with pytest.raises(UserError, match=r"GPT-2's vocab.bpe has sha256 1ce166.*the published file has 0000"):
        tokenizers.load("gpt2")
