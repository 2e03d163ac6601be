"""Detokenizers give the published text back byte for byte, on WikiText whole and on hostile lines."""

import random

import pytest

from pipeline.errors import UserError
from pipeline.evaluation.detokenizers import LINE, MARK, detokenize, retokenize
from tests.helpers.places import WIKITEXT

PIECES = ["a", "I", "B", "7", " ", " ", "\n", '"', "'s", "n't", "'", ".", ",", ":", "(", ")", "@-@", "@,@", "-", MARK]
PIECES += ["%", "$", "@.@", "é", "\r", "\u2028", "?"]


@pytest.mark.skipif(not WIKITEXT.exists(), reason="needs the WikiText-2 raw files")
@pytest.mark.parametrize(("part", "words"), [("valid", 217_646), ("test", 245_569)])
def test_wikitext_comes_back_whole_with_its_words(part, words):
    published = (WIKITEXT / f"wiki.{part}.raw").read_bytes().decode()
    made = detokenize("wikitext", published)
    assert retokenize("wikitext", made) == published
    assert len(published.split()) + published.count("\n") == words
    lines = LINE.findall(made)
    assert sum(line.startswith(MARK) for line in lines) < 0.02 * len(lines)
    assert made.count(MARK) < 0.002 * words and len(made) < 0.97 * len(published)


@pytest.mark.parametrize(
    ("name", "published", "made"),
    [
        (
            "wikitext",
            ' He said " yes , it \'s 1 @,@ 024 @-@ bit ( sic ) . " \n',
            'He said "yes, it\'s 1,024-bit (sic)."\n',
        ),
        ("wikitext", " = Title = \n", "= Title =\n"),
        ("wikitext", " \n", "\n"),
        ("wikitext", " H. G. Wells of the U.S. wrote 3 @.@ 5 pages ; \n", "H. G. Wells of the U.S. wrote 3.5 pages;\n"),
        ("ptb", " no it was n't black monday for $ <unk> \n", "no it wasn't black monday for $<unk>\n"),
        ("none", " a , b \n", " a , b \n"),
    ],
)
def test_text_looks_as_it_was_written(name, published, made):
    assert detokenize(name, published) == made
    assert retokenize(name, made) == published


@pytest.mark.parametrize("name", ["wikitext", "ptb"])
def test_any_text_comes_back(name):
    generator = random.Random(0)
    for _ in range(3_000):
        text = "".join(generator.choices(PIECES, k=generator.randrange(24)))
        assert retokenize(name, detokenize(name, text)) == text


def test_an_unknown_detokenizer_is_refused():
    with pytest.raises(UserError, match="did you mean 'wikitext'"):
        detokenize("wikitex", "a")
