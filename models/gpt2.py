"""GPT-2 as a Keras model (Radford et al., "Language Models are Unsupervised Multitask Learners", 2019).

Shapes: B batch, T context, D width, E table width, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import keras
import tensorflow as tf

from models.attention import PLAIN, Attention
from models.block import DROPOUT_SITES, Block, BlockWeights, Seeds
from models.config import GPT2Config
from models.operations import dropped, layer_norm, scoped
from models.transformer import apply_block
from models.weight_specs import STANDARD_DEVIATION

COMPUTE_DTYPES = ("float32", "bfloat16")


class Normal:
    """Draws normal values as a pure function of (seed, stream), the same on every device.

    Args:
        seed: the model's seed.
        stream: a different number for each variable.
        deviation: standard deviation.
        rows: rows of the first axis to fill; the rest stay zero. None fills all.
    """

    def __init__(self, seed: int, stream: int, deviation: float = STANDARD_DEVIATION, rows: int | None = None):
        self.seed, self.stream, self.deviation, self.rows = seed, stream, deviation, rows

    def __call__(self, shape: Sequence[int], dtype: Any = None) -> tf.Tensor:
        """Returns float32 values of this shape."""
        rows = shape[0] if self.rows is None else self.rows
        drawn = tf.random.stateless_normal(
            (rows, *shape[1:]), (self.seed, self.stream), 0.0, self.deviation, alg="philox"
        )
        return tf.pad(drawn, [[0, shape[0] - rows], *([0, 0] for _ in shape[1:])])


@keras.saving.register_keras_serializable("models")
class GPT2(keras.Model):
    """GPT-2 with the next-token logits as its output.

    Args:
        config: the model's settings, with a known vocabulary size.
        compute_dtype: dtype of activations, ``"float32"`` or ``"bfloat16"``; weights are float32 in both.
        name: Keras's name for the model; the default is the class's in lower case.
        seed: decides the initial weights.
        attention: how attention is computed; not part of ``get_config``, since it changes only rounding.

    Attributes:
        config: as given.
        table: the token table, float32 [V padded to a multiple of 128, E]; padding rows are zero.

    Raises:
        ValueError: unknown vocabulary size, or a compute dtype that is neither of the two.

    Example:
        >>> model = GPT2(GPT2Config(layers=2, heads=2, width=32, context=16, vocabulary_size=300), seed=1)
        >>> model(tf.constant([[1, 2, 3]])).shape  # logits of the next token
        TensorShape([1, 3, 300])
    """

    config_class: type[GPT2Config] = GPT2Config

    def __init__(
        self,
        config: GPT2Config,
        *,
        compute_dtype: str = "float32",
        name: str | None = None,
        seed: int = 0,
        attention: Attention = PLAIN,
        **kwargs: Any,
    ):
        if compute_dtype not in COMPUTE_DTYPES:
            raise ValueError(f"compute_dtype={compute_dtype!r}: expected one of {', '.join(COMPUTE_DTYPES)}")
        rows, width = config.padded_vocabulary, config.table_width
        super().__init__(name=name or type(self).__name__.lower(), dtype="float32")
        self.config, self.seed, self.attention = config, seed, attention
        self.activation_dtype = tf.as_dtype(compute_dtype)
        self.table = self.add_weight(
            shape=(rows, width), initializer=Normal(seed, 0, rows=config.known_vocabulary), name="token_table"
        )
        self.table.logical_rows = config.known_vocabulary  # optimizers take means over real rows
        self.positions = self.add_weight(
            shape=(config.context, width), initializer=Normal(seed, 1), name="position_table"
        )
        self.add_linear_layers()
        self.blocks = [
            Block(config.width, block_initializers(config, seed, layer), name=f"block_{layer:02d}")
            for layer in range(config.distinct_blocks)
        ]
        self.norm_scale = self.add_weight(shape=(config.width,), initializer="ones", name="final_norm_scale")
        self.norm_bias = self.add_weight(shape=(config.width,), initializer="zeros", name="final_norm_bias")
        self.built = True

    def add_linear_layers(self) -> None:
        """Creates the layers between the tables and the blocks: none in GPT-2."""

    @scoped("embedding")
    def embed(self, tokens_BT: tf.Tensor, positions: tf.Tensor, seeds_B2: Seeds = None) -> tf.Tensor:
        """Returns the input of the first block, [B, T, D] in the compute dtype.

        Args:
            tokens_BT: int32 token ids.
            positions: int32 positions, [T] or [B, T].
            seeds_B2: as for ``features``.
        """
        tokens = tf.gather(tf.convert_to_tensor(self.table), tokens_BT)
        x = tokens + tf.gather(tf.convert_to_tensor(self.positions), positions)
        x = self.embedding_in(tf.cast(x, self.activation_dtype))
        return dropped(x, seeds_B2, self.config.layers * DROPOUT_SITES, self.config.dropout)

    def embedding_in(self, x_BTE: tf.Tensor) -> tf.Tensor:
        """Projects embeddings to the blocks' width."""
        return x_BTE

    def embedding_out(self, x_BTD: tf.Tensor) -> tf.Tensor:
        """Projects the blocks' normalized output to the table's width."""
        return x_BTD

    def apply_blocks(self, x_BTD: tf.Tensor, seeds_B2: Seeds) -> tf.Tensor:
        """Applies all blocks."""
        for layer, block in enumerate(self.blocks):
            x_BTD = apply_block(x_BTD, block.tensors(), self.config, seeds_B2, layer, self.attention)
        return x_BTD

    def over_blocks(self, body: Callable, *carry: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Returns the carry after ``carry = body(layer, weights, *carry)`` for every layer, without gradients."""
        for layer, block in enumerate(self.blocks):
            carry = body(layer, block.tensors(), *carry)
        return carry

    @scoped("final_norm")
    def finish(self, x_BTD: tf.Tensor) -> tf.Tensor:
        """Returns the last block's output, normalized and projected to the table's width."""
        scale, bias = tf.convert_to_tensor(self.norm_scale), tf.convert_to_tensor(self.norm_bias)
        return self.embedding_out(layer_norm(x_BTD, scale, bias)[0])

    def features(self, tokens_BT: tf.Tensor, dropout_seeds_B2: Seeds = None) -> tf.Tensor:
        """Returns the features that multiply the token table, [B, T, E] in the compute dtype.

        Args:
            tokens_BT: int32 token ids, T at most the model's context.
            dropout_seeds_B2: int32, two words per example decide all its dropout; None for no dropout.

        Raises:
            ValueError: the sequence is longer than the position table.
        """
        length = tokens_BT.shape[1]
        if length > self.config.context:
            raise ValueError(f"{length} tokens in a sequence; the model's context is {self.config.context}")
        x = self.embed(tokens_BT, tf.range(length), dropout_seeds_B2)
        return self.finish(self.apply_blocks(x, dropout_seeds_B2))

    def logits(self, features: tf.Tensor) -> tf.Tensor:
        """Returns float32 logits over the true vocabulary, [..., V], of ``features`` [..., E]."""
        table = tf.cast(tf.convert_to_tensor(self.table), self.activation_dtype)
        padded = tf.matmul(tf.cast(features, tf.float32), tf.cast(table, tf.float32), transpose_b=True)
        return padded[..., : self.config.known_vocabulary]

    def output_table(self) -> tf.Tensor:
        """Returns the table that generation multiplies features by, float32 [V, E] without padding."""
        table = tf.convert_to_tensor(self.table)[: self.config.known_vocabulary]
        return tf.cast(tf.cast(table, self.activation_dtype), tf.float32)

    def call(self, tokens_BT: tf.Tensor) -> tf.Tensor:
        """Returns float32 logits of the next token, [B, T, V], without dropout."""
        return self.logits(self.features(tokens_BT))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as plain values."""
        return {
            "config": asdict(self.config),
            "compute_dtype": self.activation_dtype.name,
            "name": self.name,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "GPT2":
        """Returns the model that ``get_config`` described, with initial weights."""
        return cls(cls.config_class(**config.pop("config")), **config)


def block_initializers(config: GPT2Config, seed: int, layer: int) -> BlockWeights:
    """Returns normal kernels, the two that write to the residual stream scaled by 1/sqrt(2·layers); zero biases."""
    residual = STANDARD_DEVIATION / (2 * config.layers) ** 0.5
    streams = iter(range(16 * (layer + 1), 16 * (layer + 2)))
    return BlockWeights(
        *("ones", "zeros", Normal(seed, next(streams)), "zeros", Normal(seed, next(streams), residual), "zeros"),
        *("ones", "zeros", Normal(seed, next(streams)), "zeros", Normal(seed, next(streams), residual), "zeros"),
    )
