"""Byte-pair encoding by lowest-rank merges, and its inverse, as TensorFlow ops on ids, without joining strings.

All pieces of all texts are concatenated in one array of ids. A round finds each piece's pair of the lowest rank and
merges its occurrences, so a batch takes as many rounds as the piece with the most merges, whatever the number of texts.
keras-hub's BytePairTokenizer would be less code, but joins the line feeds before an apostrophe and misses U+2028.

Source: Sennrich et al. 2016, Neural Machine Translation of Rare Words with Subword Units; Radford et al. 2019 (bytes).
Shapes: N texts, W pieces, M bytes, A ids that may still be merged.
"""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tensorflow_text

from pipeline.data.format.tokenizer import Tokenizer
from pipeline.data.format.tokenizer_file import all_tokens, byte_characters
from pipeline.errors import UserError
from pipeline.serving import pieces

NONE = (1 << 31) - 1  # the rank of a pair that is never merged
STRIDE = 1 << 16  # ids are below it: a pair is left · STRIDE + right
UNUSUAL = ("continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges")


class BytePairs(tf.Module):
    """A tokenizer's encoder and decoder in a graph, with the same ids and texts as ``tokenizers``.

    Raises:
        UserError: the tokenizer is no byte-level BPE with GPT-2's pattern; these ops would not be exact.
    """

    def __init__(self, tokenizer: Tokenizer):
        super().__init__()
        model = tokenizer.settings["model"]
        vocabulary = model["vocab"]  # a merge is one string in older files, else a list of two
        merges = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in model["merges"]]
        alphabet = byte_characters()
        _check(tokenizer, model, alphabet)
        merged_ids = [vocabulary[left + right] for left, right in merges]
        pairs = [vocabulary[left] * STRIDE + vocabulary[right] for left, right in merges]
        self.ordered = _ordered(merges)
        self.ids_of_bytes = tf.constant([vocabulary[character] for character in alphabet], tf.int32)
        self.merged_ids = tf.constant([*merged_ids, 0], tf.int32)  # the last is for pairs that are never merged
        rank_of_pair = tf.lookup.KeyValueTensorInitializer(tf.constant(pairs, tf.int64), tf.range(len(pairs)))
        self.ranks = tf.lookup.StaticHashTable(rank_of_pair, NONE)
        self.texts = tf.constant(_bytes_of_ids(tokenizer, alphabet))

    def encode(self, texts_N: tf.Tensor) -> tf.RaggedTensor:
        """Returns ids int32 [N, (tokens)]; invalid UTF-8 is read as U+FFFD, as by Python's "replace"."""
        valid_N = tensorflow_text.coerce_to_structurally_valid_utf8(texts_N)
        lengths = pieces.split(valid_N)
        ids = self._encode_pieces(tf.strings.reduce_join(valid_N), lengths.flat_values)
        return lengths.with_values(ids).merge_dims(1, 2)

    def decode(self, ids: tf.Tensor) -> tf.Tensor:
        """Returns the text of int32 ids [T], a scalar; invalid UTF-8 becomes U+FFFD."""
        return tensorflow_text.coerce_to_structurally_valid_utf8(tf.strings.reduce_join(tf.gather(self.texts, ids)))

    def _encode_pieces(self, text: tf.Tensor, lengths_W: tf.Tensor) -> tf.RaggedTensor:
        """Returns the ids of each piece of a text, split into pieces of ``lengths_W`` bytes, int32 [W, (tokens)]."""
        count = tf.size(lengths_W, tf.int64)
        bytes_M = tf.cast(tf.io.decode_raw(text, tf.uint8), tf.int32)
        owner_M = tf.repeat(tf.range(count), lengths_W)
        ids_M = tf.gather(self.ids_of_bytes, bytes_M)
        # result_M has, at every byte, the id of the token that starts there, or −1.
        start = (tf.constant(True), ids_M, ids_M, owner_M, tf.range(tf.size(ids_M)))
        _, result_M, *_ = tf.while_loop(
            lambda more, *_: more,
            lambda _, *state: self._merge_once(*state),
            start,
            shape_invariants=(tf.TensorShape([]), *[tf.TensorShape([None])] * 4),
        )
        starts_M = result_M >= 0
        return tf.RaggedTensor.from_value_rowids(
            tf.boolean_mask(result_M, starts_M), tf.boolean_mask(owner_M, starts_M), nrows=count
        )

    def _merge_once(
        self, result_M: tf.Tensor, ids_A: tf.Tensor, owner_A: tf.Tensor, place_A: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        """Merges every piece's pair of the lowest rank; a piece without one is removed from the arrays of length A.

        Returns:
            Whether any pair was merged, then the arguments after it.
        """
        owner, left, right = owner_A[:-1], tf.cast(ids_A[:-1], tf.int64), tf.cast(ids_A[1:], tf.int64)
        rank = tf.where(owner == owner_A[1:], self.ranks.lookup(left * STRIDE + right), NONE)
        # segment_min gives 0 or nothing for a piece without a pair (of one id); no pair reads that entry.
        lowest = tf.math.segment_min(rank, owner)
        hit = (rank < NONE) & (rank == tf.gather(lowest, owner))
        taken = self._without_overlap(hit, owner)
        merged = tf.gather(self.merged_ids, tf.minimum(rank, tf.size(self.merged_ids) - 1))
        result_M = _put(result_M, tf.boolean_mask(place_A[:-1], taken), tf.boolean_mask(merged, taken))
        gone = tf.boolean_mask(place_A[1:], taken)
        result_M = _put(result_M, gone, -tf.ones_like(gone))
        last = tf.minimum(tf.size(ids_A), 1)  # nothing follows the last id, and there may be none
        ids_A = tf.concat([tf.where(taken, merged, ids_A[:-1]), ids_A[-last:][:last]], 0)
        busy = tf.gather(tf.concat([lowest < NONE, [False]], 0), tf.minimum(owner_A, tf.size(lowest, tf.int64)))
        stays = busy & ~tf.concat([tf.zeros([last], tf.bool), taken], 0)
        return tf.reduce_any(taken), result_M, *(tf.boolean_mask(y, stays) for y in (ids_A, owner_A, place_A))

    def _without_overlap(self, hit: tf.Tensor, owner: tf.Tensor) -> tf.Tensor:
        """Keeps a piece's hits that can be merged in one round, from the left."""
        place = tf.range(tf.size(hit))
        if not self.ordered:  # a merge may make a pair of a lower rank: one at a time
            return hit & (place == tf.gather(tf.math.segment_min(tf.where(hit, place, NONE), owner), owner))
        # Adjacent hits are of one repeated id: take every second one.
        begins = hit & ~tf.concat([[False], hit[:-1]], 0)[: tf.size(hit)]
        run = tf.cumsum(tf.cast(begins, tf.int32))
        return hit & ((place - tf.gather(tf.math.segment_min(place, run), run)) % 2 == 0)


def _put(values: tf.Tensor, places: tf.Tensor, updates: tf.Tensor) -> tf.Tensor:
    return tf.tensor_scatter_nd_update(values, places[:, None], updates)


def _ordered(merges: Sequence[tuple[str, str]]) -> bool:
    """Whether the result of each merge appears only in later merges, as after training."""
    last_made = {left + right: rank for rank, (left, right) in enumerate(merges)}
    return all(max(last_made.get(part, -1) for part in pair) < rank for rank, pair in enumerate(merges))


def _check(tokenizer: Tokenizer, model: dict[str, Any], alphabet: Sequence[str]) -> None:
    missing = [f"no token for byte {byte}" for byte, name in enumerate(alphabet) if name not in model["vocab"]]
    faults = missing[:1] + [f"{name}={model[name]!r}" for name in UNUSUAL if model.get(name)]
    if not tokenizer.splittable:
        faults.append("a normalizer, another pattern or added tokens")
    if faults:
        raise UserError(
            f"tokenizer {tokenizer.name} has {', '.join(faults)}: a SavedModel cannot reproduce it exactly; expected a "
            "byte-level BPE with GPT-2's pattern, such as pipeline.tokenizer trains"
        )


def _bytes_of_ids(tokenizer: Tokenizer, alphabet: Sequence[str]) -> list[bytes]:
    """Returns the bytes of each id; none for an id that the vocabulary skips."""
    byte_of = {character: byte for byte, character in enumerate(alphabet)}
    texts = [b""] * tokenizer.vocabulary_size
    for content, token in all_tokens(tokenizer.settings).items():
        is_byte_level = all(character in byte_of for character in content)
        texts[token] = bytes(byte_of[character] for character in content) if is_byte_level else content.encode()
    return texts
