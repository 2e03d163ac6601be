"""A source of text in which there is something of everything."""

import random

import pytest

WORDS = ["the", "cat", "'s", "naïve", "", "café", "\n\n\t", "1234", "…", "漢字", "😀", "<|endoftext|>", "don't", "="]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """60 documents: tiny, ordinary, one longer than a piece, a few that are dropped."""
    folder = tmp_path_factory.mktemp("source")
    dice = random.Random(1)
    for number in range(60):
        length = 4_000 if number == 31 else dice.choice([1, 5, 60, 300])
        text = " ".join(dice.choice(WORDS) for _ in range(length)) + "x"
        (folder / f"{number % 7}").mkdir(exist_ok=True)
        (folder / f"{number % 7}" / f"{number}.txt").write_text(text)
    (folder / "blank.txt").write_text(" \n")
    (folder / "nul.txt").write_bytes(b"a\0b")
    (folder / "latin.txt").write_bytes("café".encode("latin-1"))
    return folder
