"""The graph's tokenizer gives the ids and texts of ``tokenizers``, for every code point and on hostile text."""

import json

import hypothesis
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from pipeline.data.format import tokenizer as tokenizers
from pipeline.errors import UserError
from pipeline.serving.byte_pairs import BytePairs
from tests.helpers.hostile import TEXTS


@pytest.fixture(scope="module")
def encoders():
    """(tokenizer, its ids by graph of a list of texts) for GPT-2's vocabulary and a small one of our own."""
    texts = [f"def function_{i}(value): return value + {i}  # naïve café № {i}\n" for i in range(300)]

    def encoder(tokenizer):
        spec = [tf.TensorSpec([None], tf.string)]
        program = tf.function(BytePairs(tokenizer).encode, input_signature=spec, autograph=False)
        return tokenizer, lambda texts: program(tf.constant(texts, tf.string)).to_list()

    return [encoder(tokenizers.load("gpt2")), encoder(tokenizers.train(texts, 300, "own"))]


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(texts=st.lists(TEXTS, max_size=15))
def test_ids_are_those_of_tokenizers(encoders, texts):
    for tokenizer, encode in encoders:
        assert encode([text.encode() for text in texts]) == [tokenizer.encode(text) for text in texts]


@pytest.mark.slow
def test_every_character_is_classed_as_tokenizers_classes_it(encoders):
    """All code points that Unicode assigns; of the planes 4 to 16, but for E0xxx all unassigned or private, a part."""
    codes = [*range(0x40000), *range(0x40000, 0x110000, 61), *range(0xE0000, 0xE1000), 0x10FFFF]
    points = [chr(point) for point in codes if not 0xD800 <= point < 0xE000]
    texts = ["".join(f"a{c}1{c}!{c} {c}{c}" for c in points[i : i + 2000]) for i in range(0, len(points), 2000)]
    tokenizer, encode = encoders[1]
    for start in range(0, len(texts), 50):
        some = texts[start : start + 50]
        assert encode([text.encode() for text in some]) == [tokenizer.encode(text) for text in some]


@hypothesis.settings(max_examples=200, deadline=None)
@hypothesis.given(data=st.binary(max_size=40))
def test_bytes_that_are_no_text_are_read_as_replacement_characters(encoders, data):
    tokenizer, encode = encoders[0]
    assert encode([data]) == [tokenizer.encode(data.decode(errors="replace"))]


@hypothesis.settings(max_examples=200, deadline=None)
@hypothesis.given(data=st.data())
def test_any_ids_are_decoded_as_tokenizers_decodes_them(encoders, graph_decoders, data):
    for (tokenizer, _), decode in zip(encoders, graph_decoders, strict=True):
        ids = data.draw(st.lists(st.integers(0, tokenizer.vocabulary_size - 1), max_size=20))
        assert decode(tf.constant(ids, tf.int32)).numpy().decode() == tokenizer.decode(ids)


@pytest.fixture(scope="module")
def graph_decoders(encoders):
    return [BytePairs(tokenizer).decode for tokenizer, _ in encoders]


def changed(tokenizer, change):
    settings = json.loads(tokenizer.data)
    change(settings)
    return tokenizers.Tokenizer("other", json.dumps(settings).encode())


def test_merges_in_any_order_are_followed(encoders):
    """A merge that makes a pair of a lower rank: which a trained vocabulary has not, but a file may have."""

    def reorder(settings):
        settings["model"]["merges"] = [["ab", "a"], ["a", "b"]]
        settings["model"]["vocab"] |= {"ab": 300, "aba": 301}

    other = changed(encoders[1][0], reorder)
    assert [other.decode([token]) for token in other.encode("abababab")] == ["aba", "b", "aba", "b"]
    texts = ["abababab", "ab ba abab aab"]
    assert BytePairs(other).encode(tf.constant(texts)).to_list() == [other.encode(text) for text in texts]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda settings: settings.update(normalizer={"type": "NFC"}), "a normalizer"),
        (lambda settings: settings["model"].update(ignore_merges=True), "ignore_merges=True"),
        (lambda settings: settings["model"]["vocab"].pop("Ā"), "no token for byte 0"),
    ],
)
def test_other_tokenizers_are_refused(encoders, change, why):
    with pytest.raises(UserError, match=why):
        BytePairs(changed(encoders[1][0], change))
