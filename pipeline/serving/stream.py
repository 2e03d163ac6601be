"""Streams generation token by token: each token with its probability and the most likely others.

Shapes: B batch (1), P width of the prompt, S columns of the cache, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import tensorflow as tf

from models import key_value_cache
from models.protocols import LanguageModel
from models.sampling import Sampling, choose_by

CACHE, LOGITS, NUMBER = tf.TensorSpec([None] * 5), tf.TensorSpec([1, None]), tf.TensorSpec([])
INTEGER, INTEGERS = tf.TensorSpec([], tf.int32), tf.TensorSpec([1], tf.int32)
Tensors = tuple[tf.Tensor, ...]
ALTERNATIVES = 5  # most likely tokens that a step lists


class Step(NamedTuple):
    """A new token, its probability before temperature, top-k and top-p, and the most likely tokens with theirs."""

    token: int
    probability: float
    likeliest: list[tuple[int, float]]


class Stepper:
    """Generates one token at a time with a model; not thread-safe.

    A prompt is padded to the first of the ascending ``widths`` that holds it; the last is the context.
    """

    def __init__(self, model: LanguageModel, widths: Sequence[int]):
        self._model, self._widths = model, widths
        self._table_VE = model.output_table()

    def steps(
        self, prompt: Sequence[int], *, max_new_tokens: int, end_of_text: int, sampling: Sampling, seed: int
    ) -> Iterator[Step]:
        """Yields up to ``max_new_tokens`` steps; stops at an end-of-text, which it does not yield.

        Args:
            prompt: at least one token; it and the new ones must fit the context.
            max_new_tokens: maximum steps to yield.
            end_of_text: the token that ends the text.
            sampling: how tokens are chosen; the repetition penalty is ignored.
            seed: gives the same tokens as in ``models.decoding.generate``.
        """
        width = next(width for width in self._widths if width >= len(prompt))
        tokens = tf.constant([[*prompt, *[0] * (width - len(prompt))]], tf.int32)
        shift = tf.constant([width - len(prompt)])
        keys, values, logits = self._prefill(tokens, tf.constant([len(prompt)]), tf.constant(max_new_tokens))
        for step in range(max_new_tokens):
            token, probability, others, theirs = self._choose(
                logits, sampling.temperature, sampling.top_k, sampling.top_p, tf.constant([seed, step])
            )
            if int(token[0]) == end_of_text:
                return
            likeliest = list(zip(others.numpy().tolist(), theirs.numpy().tolist(), strict=True))
            yield Step(int(token[0]), float(probability), likeliest)
            if step + 1 < max_new_tokens:
                logits, keys, values = self._advance(token, width + step, shift, keys, values)

    # Without XLA, which would compile again for every size of the cache.
    @tf.function(autograph=False)
    def _prefill(self, tokens_BP: tf.Tensor, lengths_B: tf.Tensor, new_tokens: tf.Tensor) -> Tensors:
        return key_value_cache.prefill(
            self._model, tokens_BP, lengths_B, new_tokens, self._table_VE, write=key_value_cache.write_plain
        )

    @tf.function(autograph=False, input_signature=[LOGITS, NUMBER, INTEGER, NUMBER, tf.TensorSpec([2], tf.int32)])
    def _choose(
        self, logits_BV: tf.Tensor, temperature: tf.Tensor, top_k: tf.Tensor, top_p: tf.Tensor, seed_2: tf.Tensor
    ) -> Tensors:
        logits_BV = tf.ensure_shape(logits_BV, [1, self._model.config.known_vocabulary])
        token_B = choose_by(logits_BV, temperature, top_k, top_p, seed_2)
        probabilities_V = tf.nn.softmax(logits_BV)[0]
        best = tf.math.top_k(probabilities_V, min(ALTERNATIVES, logits_BV.shape[1]))
        return token_B, probabilities_V[token_B[0]], best.indices, best.values

    @tf.function(autograph=False, input_signature=[INTEGERS, INTEGER, INTEGERS, CACHE, CACHE])
    def _advance(
        self, token_B: tf.Tensor, column: tf.Tensor, shift_B: tf.Tensor, keys: tf.Tensor, values: tf.Tensor
    ) -> Tensors:
        config = self._model.config
        shape = [config.layers, 1, config.heads, config.head_width, None]
        keys, values = tf.ensure_shape(keys, shape), tf.ensure_shape(values, shape)
        return key_value_cache.decode_step(
            self._model, token_B, column, shift_B, keys, values, self._table_VE, write=key_value_cache.write_plain
        )
