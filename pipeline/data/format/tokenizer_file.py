"""Reads a tokenizer.json, and checks that it is suitable for a corpus.

Only a byte-level BPE keeps every byte of every text, so no other kind is accepted. Some others lose what their
vocabulary lacks, some lose white space, and none gives comparable bits per byte.

Source: Radford et al. 2019, Language Models are Unsupervised Multitask Learners (encoder.py: bytes as characters).
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from pipeline import texts
from pipeline.errors import UserError

END_OF_TEXT = "<|endoftext|>"
END_OF_TEXT_NAMES = (END_OF_TEXT, "<|end_of_text|>", "<|eot|>", "</s>", "<eos>", "[EOS]")
EXPECTED = "expected a byte-level BPE, such as GPT-2's or one that pipeline.tokenizer trains"
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
NEVER_IN_UTF8 = {0xC0, 0xC1, *range(0xF5, 0x100)}
Settings = dict[str, Any]


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


def read(name: str, data: bytes) -> Settings:
    """Parses a tokenizer.json; skips a byte order mark.

    Raises:
        UserError: it is not one, or its model is not BPE.
    """
    try:
        settings = json.loads(texts.decode(data))
        model = settings["model"]
        kind = model.get("type", "BPE" if "merges" in model else None)  # files before tokenizers 0.9 omit it
        if kind != "BPE":
            raise ValueError(f"model {kind}")
        ids = [*model["vocab"].values(), *(token["id"] for token in added_tokens(settings))]
        if not ids or not all(type(index) is int and index >= 0 for index in ids):
            raise ValueError("an id is not a whole number")
        if not all(isinstance(token["content"], str) and "special" in token for token in added_tokens(settings)):
            raise ValueError("an added token is not text")
        steps = [
            settings.get("post_processor") or {},
            *stages(settings, "normalizer"),
            *stages(settings, "pre_tokenizer"),
        ]
        if not all(isinstance(step, dict) for step in steps):
            raise ValueError("a step has no type")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"tokenizer {name}: not a tokenizer.json of a BPE model ({error}); {EXPECTED}") from error
    return settings


def added_tokens(settings: Settings) -> list[dict[str, Any]]:
    """The tokens outside the model: special ones, and others that are matched in a text first."""
    return settings.get("added_tokens") or []


def all_tokens(settings: Settings) -> dict[str, int]:
    """The id of every token, added ones included."""
    return settings["model"]["vocab"] | {token["content"]: token["id"] for token in added_tokens(settings)}


def end_of_text(name: str, settings: Settings) -> tuple[str, int]:
    """Returns the token that ends a document, and its id; UserError if the file has none."""
    special = {token["content"]: token["id"] for token in added_tokens(settings) if token["special"]}
    for content in END_OF_TEXT_NAMES:
        if content in special:
            return content, special[content]
    plain = [content for content in END_OF_TEXT_NAMES if content in all_tokens(settings)]
    raise UserError(
        f"tokenizer {name} has no end-of-text token: expected one of {', '.join(END_OF_TEXT_NAMES)} among its special "
        f"tokens, which are {', '.join(special) or 'none'}"
        + (f" ({plain[0]} is not marked as special)" if plain else "")
    )


def alone(settings: Settings) -> Settings:
    """Returns the settings that encode a text and nothing else.

    transformers leaves the last used truncation and padding in the file; a post-processor adds special tokens.
    """
    off: Settings = {key: None for key in ("truncation", "padding") if settings.get(key)}
    if (settings.get("post_processor") or {}).get("type", "ByteLevel") != "ByteLevel":
        off["post_processor"] = None
    return settings | off


def stages(settings: Settings, key: str) -> list[dict[str, Any]]:
    """The steps of the normalizer or the pre-tokenizer, in order."""
    whole = settings.get(key) or {"type": "Sequence"}
    inner = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers"}[key]
    return whole.get(inner, []) if whole.get("type") == "Sequence" else [whole]


def has_prefix_space(settings: Settings) -> bool:
    """Whether a text is encoded as if it began with a space."""
    return any(stage.get("add_prefix_space") for stage in stages(settings, "pre_tokenizer"))


def notes(name: str, settings: Settings) -> tuple[str, ...]:
    """Notes for the users of a data set on what its tokenizer changes."""
    changes = [str(stage.get("type")) for stage in stages(settings, "normalizer")]
    changes += ["add_prefix_space"] * has_prefix_space(settings)
    if not changes:
        return ()
    return (
        f"tokenizer {name} changes text before it encodes it ({', '.join(changes)}): the tokens are of the changed "
        "text, the counts of bytes and words of the text as it was read",
    )


def has_gpt2s_pattern(settings: Settings) -> bool:
    """Whether only GPT-2's pattern cuts texts into pieces, and each piece is encoded separately."""
    pre_tokenizer = settings.get("pre_tokenizer") or {}
    return (
        pre_tokenizer.get("type") == "ByteLevel"
        and pre_tokenizer.get("use_regex", True)
        and not pre_tokenizer.get("add_prefix_space")
        and not settings["model"].get("dropout")
        and settings.get("normalizer") is None
        and all(token["special"] for token in added_tokens(settings))
    )


def byte_characters() -> list[str]:
    """Returns the character that stands for each byte in a byte-level vocabulary."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in shown else chr(next(others)) for byte in range(256)]


def byte_lengths(settings: Settings) -> np.ndarray:
    """Returns how many bytes of a text each id stands for, int32 [ids]; special tokens stand for none."""
    tokens = all_tokens(settings)
    lengths = np.zeros(max(tokens.values()) + 1, np.int32)
    for content, index in tokens.items():
        lengths[index] = len(content)  # a character is a byte
    for token in added_tokens(settings):
        lengths[token["id"]] = 0 if token["special"] else len(token["content"].encode())
    return lengths


def check(name: str, settings: Settings) -> None:
    """Rejects a file that would lose, change or randomly encode text.

    Raises:
        UserError: it names the first fault.
    """
    for fault in _faults(settings):
        raise UserError(f"tokenizer {name} has {fault}; {EXPECTED}")


def _faults(settings: Settings) -> Iterator[str]:
    model, tokens = settings["model"], all_tokens(settings)
    kinds = [stage.get("type") for stage in stages(settings, "pre_tokenizer")]
    if kinds[-1:] != ["ByteLevel"]:
        yield f"the pre-tokenizer {' and '.join(map(str, kinds)) or 'none'}, which does not end with ByteLevel"
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            yield f"{key}={model[key]!r}, which makes ids " + ("random" if key == "dropout" else "of no bytes")
    for byte, character in enumerate(byte_characters()):
        if character not in model["vocab"] and byte not in NEVER_IN_UTF8:
            yield f"no token for byte 0x{byte:02x}, which would be lost"
    content_of: dict[int, str] = {}
    for content, index in tokens.items():
        if (other := content_of.setdefault(index, content)) != content:
            yield f"one id, {index}, for two tokens, {other!r} and {content!r}"
    for token in added_tokens(settings):
        content = token["content"]
        if not token["special"] and (token.get("lstrip") or token.get("rstrip")):
            yield f"an added token, {content!r}, that takes the white space beside it (lstrip, rstrip), which is lost"
        if token["special"] and (not content.strip() or content.replace(" ", "").isalnum()):
            yield f"a special token, {content!r}, that occurs in ordinary text, where transformers would find it"
