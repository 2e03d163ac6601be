"""What training, evaluation and serving need from a model. Imports neither TensorFlow nor Keras."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from models.config import GPT2Config


class LanguageModel(Protocol):
    """A built model, as ``models.build`` returns it; ``models.gpt2.GPT2`` documents each member.

    Shapes: B batch, T context, D width, E width of the token table, V vocabulary.
    """

    config: GPT2Config
    config_class: type[GPT2Config]
    activation_dtype: tf.DType
    table: keras.Variable
    variables: Sequence[keras.Variable]
    trainable_variables: Sequence[keras.Variable]

    def __call__(self, tokens_BT: tf.Tensor) -> tf.Tensor:
        """Returns float32 logits of the next token, [B, T, V]."""

    def embed(self, tokens_BT: tf.Tensor, positions: tf.Tensor, seeds_B2: tf.Tensor | None = None) -> tf.Tensor:
        """Returns the input of the first block, [B, T, D]."""

    def over_blocks(self, body: Callable[..., Any], *carry: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Returns the carry after ``carry = body(layer, weights, *carry)`` for every layer."""

    def finish(self, x_BTD: tf.Tensor) -> tf.Tensor:
        """Returns the last block's output, normalized and projected to [B, T, E]."""

    def features(self, tokens_BT: tf.Tensor, dropout_seeds_B2: tf.Tensor | None = None) -> tf.Tensor:
        """Returns the features that multiply the token table, [B, T, E]."""

    def logits(self, features: tf.Tensor) -> tf.Tensor:
        """Returns float32 logits [..., V] of features [..., E]."""

    def output_table(self) -> tf.Tensor:
        """Returns the table that features are multiplied by, float32 [V, E]."""
