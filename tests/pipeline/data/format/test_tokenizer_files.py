"""A tokenizer.json gives the ids of `tokenizers`, and exported those of transformers, or it is refused."""

import copy
import io
import json
import pathlib
import runpy
import sys
import types

import numpy as np
import pytest
import tokenizers as library

from pipeline.data.corpora.base import Document
from pipeline.data.format import tokenizer as tokenizers
from pipeline.data.format import tokenizer_file
from pipeline.data.format.settings import ShardConfig
from pipeline.data.sharding.encode_unit import UnitEncoder
from pipeline.data.sharding.sharder import Sharder
from pipeline.errors import UserError
from tests.helpers.places import SHARED

CASES = SHARED / "cases"
OPTIONAL = "pip install -r requirements-torch.txt"
TEXTS = [
    *(
        "The cat sat on  a\n\nmat",
        "Hello World , it 's ",
        " lead",
        " ",
        "\n",
        "\r\n\t9",
        "a<|user|>  b",
        "</s> 123 4567",
    ),
    *("cafe\u0301 caf\u00e9 \u1100\u1161 \ufb01 \u0130\u1e9e", "\u65e5\u672c\u8a9e\U0001f600\u200d\u2028\xa0", "DON'T"),
    *("the cat concatenates " * 400, "\u00e9" * 3000, " " * 700 + "x"),
]
# Of each file that the scripts write: None where it gives the library's ids, or what it is refused with.
VERDICTS = {
    **dict.fromkeys(("none", "truncation", "trunc512", "trunc1024", "padding", "template", "bom", "merges_str"), None),
    **dict.fromkeys(("llama3", "prefix", "nfc", "lower"), None),
    "user": r"'<\|user\|>', that takes the white space beside it",
    "special_mid": "a special token, 'cat', that occurs in ordinary text",
    "notspecial": r"<\|endoftext\|> is not marked as special",
    "hole": "'<pad>' is id 700, but the library `tokenizers` makes it 512",
    "llama2": "pre-tokenizer none, which does not end with ByteLevel",
    "unigram": "model Unigram",
    "wordpiece": "model WordPiece",
    "wordlevel": "model WordLevel",
}
KINDS = [name for name, verdict in VERDICTS.items() if verdict is None]


@pytest.fixture(scope="module")
def base():
    return tokenizers.train([pathlib.Path(__file__).read_text()], 512, "base")  # the scripts add tokens from 512 on


@pytest.fixture(scope="module")
def written(base, tmp_path_factory):
    """The path of each file that the scripts write, by its name."""
    if not CASES.is_dir():
        pytest.skip(f"{CASES}, whose scripts write the files, is not there")
    folder = tmp_path_factory.mktemp("tokenizers")
    (folder / "base").mkdir()
    (folder / "base" / "base.json").write_bytes(base.data)
    for script in ("make_tokenizers.py", "truncation.py"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [script, str(folder / "base" / "base.json"), str(folder)])
            runpy.run_path(str(CASES / script))
    return {path.stem: path for path in folder.glob("*.json")}


@pytest.mark.cases
def test_each_file_that_the_scripts_write_has_a_verdict(written):
    assert set(written) == set(VERDICTS)


def opened(path):
    """Loads a tokenizer as the sharder does."""
    tokenizer = tokenizers.load(str(path))
    tokenizer.warm_up()
    return tokenizer


@pytest.mark.cases
@pytest.mark.parametrize("name", VERDICTS)
def test_a_file_gives_the_librarys_ids_or_one_sentence(written, name, capfd):
    if VERDICTS[name]:
        with pytest.raises(UserError, match=VERDICTS[name]):
            opened(written[name])
        assert capfd.readouterr() == ("", "")
        return
    tokenizer = opened(written[name])
    reference = library.Tokenizer.from_str(written[name].read_text("utf-8-sig"))
    reference.no_truncation()
    reference.no_padding()
    ids, offsets = tokenizer.encode_batch(TEXTS)
    exported = library.Tokenizer.from_str(tokenizer.plain_data.decode())  # as others open it: nothing switched off
    for text, start, stop in zip(TEXTS, offsets, offsets[1:], strict=False):
        expected = reference.encode(text, add_special_tokens=False).ids
        assert ids[start:stop].tolist() == tokenizer.encode(text) == exported.encode(text).ids == expected
        assert tokenizer.decode(expected) == tokenizer.normalized(text)
    assert (tokenizer.normalized("Cat cafe\u0301") == "Cat cafe\u0301") == (name not in ("prefix", "nfc", "lower"))
    assert bool(tokenizer_file.notes(name, tokenizer.settings)) == (name in ("prefix", "nfc", "lower"))


@pytest.mark.cases
def test_what_is_refused_leaves_nothing_behind(written, tmp_path):
    (tmp_path / "a.txt").write_text("some text " * 100)
    config = ShardConfig(corpus="text", name="t", shards=1, context=16, tokenizer=str(written["hole"]))
    with pytest.raises(UserError, match="makes it 512"):
        Sharder(config, str(tmp_path), str(tmp_path / "out"), 1).run()
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def with_token(content, index=512, **changes):
    token = {"id": index, "content": content, "special": False, "single_word": False}
    token |= {"lstrip": False, "rstrip": False, "normalized": False} | changes
    return lambda data: data["added_tokens"].append(token)


def split(pattern, behavior):
    stage = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": False}
    levels = {"type": "ByteLevel", "add_prefix_space": True, "use_regex": False, "trim_offsets": True}
    inner = [stage, levels | {"add_prefix_space": behavior == "Isolated"}]
    return lambda data: data.update(pre_tokenizer={"type": "Sequence", "pretokenizers": inner})


def without_a_byte(data):
    del data["model"]["vocab"]["Z"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.update(normalizer={"type": "NFKC"}), "the bulk engine cannot load it .*NFKC"),
        (lambda data: data["model"].update(dropout=0.1), "dropout=0.1, which makes ids random"),
        (lambda data: data["model"].update(end_of_word_suffix="</w>"), "end_of_word_suffix='</w>'"),
        (lambda data: data["model"].update(continuing_subword_prefix="##"), "continuing_subword_prefix='##'"),
        (lambda data: data["model"].update(merges=[["the", "nowhere"]]), "`tokenizers` cannot load it"),
        (lambda data: data["model"]["vocab"].update(twice=1), "one id, 1, for two tokens, '!' and 'twice'"),
        (lambda data: data["model"]["vocab"].update(half=0.5), "an id is not a whole number"),
        (lambda data: data.update(pre_tokenizer=5), "not a tokenizer.json"),
        (lambda data: data["pre_tokenizer"].update(type="Sequence", pretokenizers=[None]), "not a tokenizer.json"),
        (lambda data: data["added_tokens"][0].update(content=5), "an added token is not text"),
        (lambda data: data.update(pre_tokenizer=None), "pre-tokenizer none"),
        (lambda data: data.update(decoder=None), "does not give text back"),
        (without_a_byte, "no token for byte 0x5a"),
        (split(r"\s+", "Removed"), "does not give text back"),
        (split(r"\s+", "Isolated"), "does not give text back"),
        (with_token("<|user|>", index=600), "makes it 512"),
        (with_token("né"), "does not give text back"),
        (with_token(" "), None),
        (with_token("<|user|>"), None),
        (with_token("<|user|>", special=True), None),
        (with_token("\n", special=True), "a special token, '.n', that occurs in ordinary text"),
        (lambda data: data["model"].pop("type"), None),
        (lambda data: data["pre_tokenizer"].pop("use_regex"), None),
    ],
)
def test_what_loses_text_or_makes_other_ids_is_refused(base, tmp_path, change, message, capfd):
    settings = copy.deepcopy(base.settings)
    change(settings)
    (tmp_path / "other.json").write_text(json.dumps(settings))
    if message is None:
        tokenizer = opened(tmp_path / "other.json")
        assert tokenizer.encode_batch(TEXTS)[0].tolist() == [
            token for text in TEXTS for token in tokenizer.encode(text)
        ]
        return
    with pytest.raises(UserError, match=message):
        opened(tmp_path / "other.json")
    assert capfd.readouterr() == ("", ""), "a thread's traceback"


def test_gpt2s_file_as_the_first_tokenizers_wrote_it_is_gpt2s(base, tmp_path):
    """The one on the hub names neither the model's type nor the pattern, and writes a merge as one string."""
    settings = copy.deepcopy(base.settings)
    del settings["model"]["type"], settings["pre_tokenizer"]["use_regex"]
    settings["model"] |= {"continuing_subword_prefix": "", "end_of_word_suffix": ""}
    settings["model"]["merges"] = [" ".join(pair) for pair in settings["model"]["merges"]]
    (tmp_path / "old.json").write_text(json.dumps(settings))
    old = opened(tmp_path / "old.json")
    assert old.splittable and [old.encode(text) for text in TEXTS] == [base.encode(text) for text in TEXTS]


@pytest.mark.parametrize("packing", ["contiguous", "lines"])
def test_a_document_that_loses_bytes_is_named(base, monkeypatch, packing):
    """Beyond the first texts of a unit, which the library encodes as well."""
    right = base.encode_batch

    def truncated(texts):
        pieces = [right([text])[0][:1024] for text in texts]
        return np.concatenate(pieces), np.cumsum([0, *map(len, pieces)])

    monkeypatch.setattr(base, "encode_batch", truncated)
    documents = [Document(f"{i}.txt", "some words\nand more " * (400 if i == 7 else 5)) for i in range(9)]
    if packing == "lines":
        documents[7] = Document("7.txt", "some words " * 400)
    corpus = types.SimpleNamespace(documents=lambda _: iter(documents), seconds={})
    config = ShardConfig(corpus="text", name="t", packing=packing, context=2048)
    with pytest.raises(UserError, match=r"does not keep document '7.txt': \d+ bytes became 1024 tokens"):
        UnitEncoder(config, base, io.BytesIO()).run(corpus, types.SimpleNamespace(size=1, index=0))


def test_no_byte_is_counted_for_a_text_that_is_empty(base):
    from pipeline.data.format import fidelity

    ids, offsets = base.encode_batch(["", "a b", "", "é", ""])
    fidelity.check_bytes(base, ["", "a b", "", "é", ""], ids, offsets, "12345")
    with pytest.raises(UserError, match="document '4'"):
        fidelity.check_bytes(base, ["", "a b", "", "ü!", ""], ids, offsets, "12345")


@pytest.mark.cases
@pytest.mark.parametrize("name", ["none", "llama3", "prefix"])
def test_an_export_says_all_that_transformers_asks(written, name):
    """Without it the class is GPT-2's own, whose pre-tokenizer takes the place of the file's."""
    tokenizer = tokenizers.load(str(written[name]))
    assert tokenizer.transformers_settings(64) == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|endoftext|>",
        "eos_token": "<|endoftext|>",
        "model_max_length": 64,
        "add_prefix_space": name == "prefix",
        "clean_up_tokenization_spaces": False,
    }


@pytest.mark.cases
@pytest.mark.parametrize(
    ("name", "token"),
    [(name, "<|endoftext|>") for name in KINDS] + [("none", token) for token in tokenizer_file.END_OF_TEXT_NAMES[1:]],
)
def test_autotokenizer_gives_the_ids_of_an_exports_sharder(written, name, token, tmp_path):
    transformers = pytest.importorskip("transformers", reason=OPTIONAL)
    text = written[name].read_text("utf-8-sig").replace("<|endoftext|>", token)
    tokenizer = tokenizers.Tokenizer(name, text.encode())
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    (tmp_path / "tokenizer.json").write_bytes(tokenizer.plain_data)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer.transformers_settings(64)))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    texts = [text for text in TEXTS if token not in text]
    assert [theirs(text)["input_ids"] for text in texts] == [tokenizer.encode(text) for text in texts]
    forged = f"a {token} b"
    assert theirs(forged, split_special_tokens=True)["input_ids"] == tokenizer.encode(forged)
    assert tokenizer.end_of_text in theirs(forged)["input_ids"]
    assert (len(theirs), theirs.eos_token_id) == (tokenizer.vocabulary_size, tokenizer.end_of_text)
    assert theirs.model_max_length == 64
