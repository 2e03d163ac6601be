"""The hashes that order and split a corpus, and the word count: everything computed per document besides tokens."""

import hashlib

import numpy as np


def name_hash(identity: str) -> bytes:
    """128-bit hash of a document's id."""
    return hashlib.blake2b(identity.encode("utf-8", "surrogateescape"), digest_size=16).digest()


def _mixed(values: np.ndarray) -> np.ndarray:
    """MurmurHash3's 64-bit finalizer: a bijection whose every output bit depends on every input bit."""
    for multiplier in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        values = (values ^ values >> np.uint64(33)) * np.uint64(multiplier)
    return values ^ values >> np.uint64(33)


def salted(names: np.ndarray, seed: int) -> np.ndarray:
    """Two independent salted hashes of each document, uint64 [documents, 2]: one orders the corpus, one splits it."""
    salt = hashlib.blake2b(str(seed).encode(), digest_size=16).digest()
    return _mixed(names ^ np.frombuffer(salt, "<u8"))


def fingerprint(names: np.ndarray, contents: np.ndarray) -> list[int]:
    """Two 64-bit sums over documents, independent of their order and grouping."""
    mixed = _mixed(names + _mixed(contents)[:, None])
    return [int(total) for total in mixed.sum(axis=0, dtype=np.uint64)]


def count_words(raw: bytes, word_rule: str, after_space: bool = True) -> int:
    """Counts the words that begin in UTF-8 text: runs without ASCII white space; by the other rule newlines too."""
    words, data = 0, np.frombuffer(raw, np.uint8)
    for start in range(0, len(data), 1 << 17):  # within the processor's cache
        piece = data[start : start + (1 << 17)]
        space = (piece == 32) | ((piece - np.uint8(9)) < 5)
        words += int(np.count_nonzero(space[:-1] > space[1:])) + int(after_space and not space[0])
        after_space = bool(space[-1])
    return words + (raw.count(b"\n") if word_rule == "whitespace+newline" else 0)
