"""Bytes in, bytes out: checks that a tokenizer's ids equal those of the library `tokenizers` and stand for the text.

It compares the ids on samples, since the library is slow, and the number of bytes for every text.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pipeline.data.format import tokenizer_file
from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.data.format.tokenizer import Tokenizer

# White space, digits, contractions, scripts, combining marks, and a length beyond usual truncation.
PROBE = (
    "The cat's  don't\n\n\r\n\t  12345 x2 ²½ na\u00efve caf\u00e9 cafe\u0301 \u4e2d\u6587\u3002 \u0440\u0443\u0441 "
    "\u1100\u1161 \u0627\u0644 \u200b\u00a0\u2028 \U0001f600\u200d !?(<[{~ a_b <0x41> \u2581 </s> \x00\x7f "
) * 100


def check_engines(tokenizer: "Tokenizer") -> None:
    """Rejects a tokenizer whose two engines differ, or whose ids do not decode to the text.

    Raises:
        UserError: names the first text, or the first added token, that is wrong.
    """
    added = tokenizer_file.added_tokens(tokenizer.settings)
    for token in added:
        content, index = token["content"], tokenizer.oracle.token_to_id(token["content"])
        if index != token["id"]:
            raise UserError(
                f"tokenizer {tokenizer.name} says that {content!r} is id {token['id']}, but the library `tokenizers` "
                f"makes it {index}: added tokens follow the vocabulary without a gap; expected {index} in the file"
            )
    texts = [PROBE, *(text for token in added for text in (token["content"], f"a {token['content']}  b"))]
    ids, offsets = tokenizer.encode_batch(texts)
    for text, start, stop in zip(texts, offsets, offsets[1:], strict=False):
        compare(tokenizer, text, ids[start:stop])
    check_bytes(tokenizer, texts, ids, offsets, [text[:60] for text in texts])


def compare(tokenizer: "Tokenizer", text: str, ids: np.ndarray, *, whole: bool = True) -> None:
    """Rejects the bulk engine's ids if they differ from the library's, or do not decode to the text.

    If not ``whole``, the text is the beginning, up to a split point, of what the ids encode.

    Raises:
        UserError: it shows the beginning of the text.
    """
    expected = tokenizer.encode(text)
    if not np.array_equal(ids if whole else ids[: len(expected)], expected):
        raise UserError(
            f"tokenizer {tokenizer.name}: the bulk engine and the library `tokenizers` disagree on a text that begins "
            f"{text[:60]!r}; {tokenizer_file.EXPECTED}"
        )
    decoded, normalized = tokenizer.decode(expected), tokenizer.normalized(text)
    if decoded != normalized:
        pairs = enumerate(zip(decoded, normalized, strict=False))
        place = next((i for i, pair in pairs if len(set(pair)) > 1), len(normalized))
        near = slice(max(place - 10, 0), place + 20)
        raise UserError(
            f"tokenizer {tokenizer.name} does not give text back: {normalized[near]!r} is encoded and decoded to "
            f"{decoded[near]!r}; {tokenizer_file.EXPECTED}"
        )


def check_bytes(
    tokenizer: "Tokenizer", texts: Sequence[str], ids: np.ndarray, offsets: np.ndarray, names: Sequence[str]
) -> None:
    """Rejects ids that stand for more or fewer bytes than their text has; both as ``encode_batch`` returns them.

    ``names`` gives each text's document.

    Raises:
        UserError: it names the first such text.
    """
    # int32 holds some MB of text; a sum of another type would be buffered and take 10 times as long.
    until = np.zeros(len(ids) + 1, np.int32)
    np.cumsum(tokenizer.byte_lengths.take(ids, mode="clip"), dtype=np.int32, out=until[1:])
    held = np.diff(until[offsets])
    sizes = np.fromiter((len(text) if text.isascii() else len(text.encode()) for text in texts), np.int64, len(texts))
    for i in np.flatnonzero(held != sizes).tolist():
        size = len(tokenizer.normalized(texts[i]).encode())
        if held[i] != size:
            raise UserError(
                f"tokenizer {tokenizer.name} does not keep document {names[i]!r}: {size} bytes became "
                f"{offsets[i + 1] - offsets[i]} tokens, which stand for {held[i]} bytes; {tokenizer_file.EXPECTED}"
            )
