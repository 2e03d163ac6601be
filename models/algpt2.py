"""ALGPT2: GPT-2 with ALBERT's economies (Lan et al. 2020): one shared block, and narrow tables with linear layers.

ALBERT's sentence-order loss is left out: it has no place in a language model. Shapes: B, T, D, E as in gpt2.py.
"""

from collections.abc import Callable

import keras
import tensorflow as tf

from models.config import ALGPT2Config
from models.gpt2 import GPT2, Normal
from models.operations import dense
from models.transformer import apply_shared_block


@keras.saving.register_keras_serializable("models")
class ALGPT2(GPT2):
    """ALGPT2; its arguments and attributes are those of ``GPT2``, its config an ``ALGPT2Config``.

    Example:
        >>> config = ALGPT2Config(layers=2, heads=2, width=32, embedding=8, context=16, vocabulary_size=300)
        >>> model = ALGPT2(config, compute_dtype="bfloat16")
        >>> model.features(tf.constant([[1, 2, 3]])).shape  # as wide as the narrow table
        TensorShape([1, 3, 8])
    """

    config_class = ALGPT2Config
    config: ALGPT2Config

    def add_linear_layers(self) -> None:
        """Creates the linear layers E→D after the tables and D→E before the output table.

        Initially they keep the size of what passes through them. With the 0.02 of other kernels, as in ALBERT, they
        shrink the residual stream and the logits, and ALGPT2 learns far more slowly (figures: quickstart.gin).
        """
        self.factorized = self.config.embedding is not None
        if not self.factorized:
            return
        narrow, wide = self.config.table_width, self.config.width
        self.enter_kernel = self.add_weight(
            shape=(narrow, wide), initializer=Normal(self.seed, 2, narrow**-0.5), name="enter_kernel"
        )
        self.enter_bias = self.add_weight(shape=(wide,), initializer="zeros", name="enter_bias")
        self.leave_kernel = self.add_weight(
            shape=(wide, narrow), initializer=Normal(self.seed, 3, wide**-0.5), name="leave_kernel"
        )
        self.leave_bias = self.add_weight(shape=(narrow,), initializer="zeros", name="leave_bias")

    def embedding_in(self, x_BTE: tf.Tensor) -> tf.Tensor:
        """Projects embeddings from E to D."""
        return dense(x_BTE, self.enter_kernel, self.enter_bias) if self.factorized else x_BTE

    def embedding_out(self, x_BTD: tf.Tensor) -> tf.Tensor:
        """Projects the normalized output from D to E."""
        return dense(x_BTD, self.leave_kernel, self.leave_bias) if self.factorized else x_BTD

    def apply_blocks(self, x_BTD: tf.Tensor, seeds_B2: tf.Tensor | None) -> tf.Tensor:
        """Applies the shared block ``layers`` times."""
        return apply_shared_block(x_BTD, self.blocks[0].tensors(), self.config, seeds_B2, self.attention)

    def over_blocks(self, body: Callable, *carry: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """As in GPT-2, in a loop whose program contains one block."""
        weights = self.blocks[0].tensors()
        _, *carry = tf.while_loop(
            lambda layer, *_: layer < self.config.layers,
            lambda layer, *carry: (layer + 1, *body(layer, weights, *carry)),
            (tf.constant(0), *carry),
        )
        return tuple(carry)
