r"""GPT-2's pattern, which splits a text into separately encoded pieces, as TensorFlow ops.

TensorFlow's regular expressions differ from the tokenizer's in two ways. They cannot look ahead, so ``\s+(?!\\S)``
becomes single white space here, which is joined afterwards: before other text, the last character of a run stays
separate, unless it is a blank that the text took. Their Unicode is older and lacks some letters, so the classes are
spelled out as the ranges that the tokenizer's own engine finds.

Source: Radford et al. 2019, the pattern of its encoder.py.
"""

import functools

import tensorflow as tf
import tensorflow_text

LETTER, NUMBER, SPACE = r"\p{L}", r"\p{N}", r"\s"


@functools.cache
def ranges(kind: str) -> str:
    r"""Returns the code points of a class of the tokenizer's engine, for use in brackets: ``\x{41}-\x{5a}…``."""
    from tokenizers import Regex, pre_tokenizers

    points = [point for point in range(0x110000) if not 0xD800 <= point < 0xE000]
    outside = pre_tokenizers.Split(Regex(f"{kind}+"), "removed").pre_tokenize_str("".join(map(chr, points)))
    edges = [0, *(edge for _, (start, stop) in outside for edge in (start, stop)), len(points)]
    inside = [(start, stop) for start, stop in zip(edges[::2], edges[1::2], strict=True) if start < stop]
    return "".join(rf"\x{{{points[start]:x}}}-\x{{{points[stop - 1]:x}}}" for start, stop in inside)


@functools.cache
def pattern() -> str:
    """Returns GPT-2's pattern without its lookahead, for RE2."""
    letter, number, space = map(ranges, (LETTER, NUMBER, SPACE))
    return f"'s|'t|'re|'ve|'m|'ll|'d| ?[{letter}]+| ?[{number}]+| ?[^{space}{letter}{number}]+|[{space}]"


def split(texts_N: tf.Tensor) -> tf.RaggedTensor:
    """Returns the length in bytes of each piece of each text, which is valid UTF-8: int32 [N, (pieces)]."""
    # regex_split ends a text at NUL; the pattern treats \x01 the same.
    without_nul = tf.strings.regex_replace(texts_N, r"\x00", "\x01")
    splits = tensorflow_text.regex_split(without_nul, pattern(), pattern())
    pieces, owner = splits.flat_values, splits.value_rowids()
    blank = tf.strings.regex_full_match(pieces, f"[{ranges(SPACE)}]")
    follows = tf.concat([owner[1:], [-1]], 0) == owner  # the same text has a next piece
    starts_blank = tf.strings.substr(pieces, 0, 1) == b" "
    # Before other text that took no blank, the last of a run stays separate.
    kept_apart = _next(follows) & ~_next(_next(blank)) & ~_next(_next(starts_blank))
    joined = blank & _next(blank) & follows & ~kept_apart
    head = tf.concat([[True], ~joined[:-1]], 0)[: tf.size(pieces)]
    group = tf.cumsum(tf.cast(head, tf.int64)) - 1
    lengths = tf.math.segment_sum(tf.strings.length(pieces), group)
    return tf.RaggedTensor.from_value_rowids(lengths, tf.boolean_mask(owner, head), nrows=splits.nrows())


def _next(values: tf.Tensor) -> tf.Tensor:
    """Shifts the values left by one, with False as the last."""
    return tf.concat([values[1:], [False]], 0)[: tf.size(values)]
