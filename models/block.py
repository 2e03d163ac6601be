"""The transformer block as a pure function with a hand-written backward pass, and the layer that holds its weights.

``block`` returns its output and the residuals that its gradient needs, so ``remat`` chooses which residuals are kept,
and a loop over layers can carry them in arrays; transformer.py stacks blocks.

Shapes: B batch, T context, D width, H heads, K head width.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import keras
import tensorflow as tf

from models.attention import PLAIN, Attention, Dropout
from models.config import MLP_FACTOR, GPT2Config
from models.operations import (
    barrier,
    dense,
    dense_gradient,
    dropped,
    float32,
    gelu,
    gelu_gradient,
    layer_norm,
    layer_norm_gradient,
    normalized,
    read_again,
    scoped,
)

Seeds: TypeAlias = tf.Tensor | None  # int32 [B, 2]: two words per example decide all its dropout; None: no dropout
Layer: TypeAlias = tf.Tensor | int
DROPOUT_SITES = 3  # a block's dropouts: attention probabilities, attention branch, MLP branch


class BlockWeights(NamedTuple):
    """One block's weights, float32; kernels are [inputs, outputs], queries, keys and values side by side."""

    attention_norm_scale: Any
    attention_norm_bias: Any
    query_key_value_kernel: Any
    query_key_value_bias: Any
    attention_output_kernel: Any
    attention_output_bias: Any
    mlp_norm_scale: Any
    mlp_norm_bias: Any
    mlp_input_kernel: Any
    mlp_input_bias: Any
    mlp_output_kernel: Any
    mlp_output_bias: Any


ATTENTION_WEIGHTS = 6  # the first of BlockWeights; the others are the MLP's


def block_weight_shapes(width: int) -> BlockWeights:
    """Returns the shape of each weight of a block of this width."""
    hidden = MLP_FACTOR * width
    return BlockWeights(
        *((width,), (width,), (width, 3 * width), (3 * width,), (width, width), (width,)),
        *((width,), (width,), (width, hidden), (hidden,), (hidden, width), (width,)),
    )


class AttentionResiduals(NamedTuple):
    """Tensors that the gradient of a block's attention half needs besides the block's input."""

    mean: tf.Tensor
    inverse: tf.Tensor
    q: tf.Tensor
    k: tf.Tensor
    v: tf.Tensor
    output: tf.Tensor
    log: tf.Tensor


class MlpResiduals(NamedTuple):
    """Tensors that the gradient of a block's MLP half needs."""

    middle: tf.Tensor
    mean: tf.Tensor
    inverse: tf.Tensor
    hidden: tf.Tensor


def _attention_dropout(config: GPT2Config, seeds_B2: Seeds, layer: Layer) -> Dropout | None:
    if seeds_B2 is None or not config.dropout:
        return None
    return Dropout(seeds_B2, layer * DROPOUT_SITES, config.dropout)


def query_key_value(normal_BTD: tf.Tensor, weights: BlockWeights, heads: int) -> list[tf.Tensor]:
    """Returns queries, keys and values, each [B, H, K, T]: time last, as attention reads them."""
    dtype = normal_BTD.dtype
    kernels = tf.split(weights.query_key_value_kernel, 3, axis=1)
    biases = tf.split(weights.query_key_value_bias, 3)
    # Three products: splitting the result of one would copy it.
    return [
        _heads(tf.einsum("btd,de->bet", normal_BTD, tf.cast(kernel, dtype)) + tf.cast(bias, dtype)[:, None], heads)
        for kernel, bias in zip(kernels, biases, strict=True)
    ]


def query_key_value_gradient(
    parts_BHKT: Sequence[tf.Tensor], normal_BTD: tf.Tensor, weights: BlockWeights
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the gradients of ``normal_BTD`` and, in float32, of the fused kernel."""
    dtype, (_, length, width) = normal_BTD.dtype, normal_BTD.shape
    parts = [tf.reshape(part, [-1, width, length]) for part in parts_BHKT]
    kernels = [tf.cast(kernel, dtype) for kernel in tf.split(weights.query_key_value_kernel, 3, axis=1)]
    # Three products here, one below: for one product a TPU would transpose the concatenated parts.
    products = [tf.einsum("bet,de->btd", part, kernel) for part, kernel in zip(parts, kernels, strict=True)]
    d_kernel = tf.einsum("btd,bet->de", float32(normal_BTD), float32(tf.concat(parts, 1)))
    return tf.cast(tf.add_n([float32(product) for product in products]), dtype), d_kernel


def query_key_value_bias_gradient(
    dq_BHKT: tf.Tensor, dv_BHKT: tf.Tensor, d_output_bias_D: tf.Tensor, weights: BlockWeights, dropout: Dropout | None
) -> tf.Tensor:
    """Returns the gradient of the fused bias, float32 [3D], most of it without a pass over the tokens.

    A vector added to all keys adds the same to all scores of a query, which changes no probability: its gradient is 0.
    A vector added to all values is added to every output, since a query's probabilities sum to 1 unless some are
    dropped.
    """
    of_queries, of_values = (tf.reshape(tf.reduce_sum(float32(d_part), [0, 3]), [-1]) for d_part in (dq_BHKT, dv_BHKT))
    if dropout is None:
        of_values = tf.reduce_sum(weights.attention_output_kernel * d_output_bias_D, 1)
    return tf.concat([of_queries, tf.zeros_like(of_queries), of_values], 0)


def _heads(features_BDT: tf.Tensor, heads: int) -> tf.Tensor:
    _, width, length = features_BDT.shape
    return tf.reshape(features_BDT, [-1, heads, width // heads, length])


def attention_output(output_BDT: tf.Tensor, weights: BlockWeights) -> tf.Tensor:
    """Returns the attention output (time last) projected to the residual stream, [B, T, D]."""
    dtype = output_BDT.dtype
    kernel, bias = (tf.cast(w, dtype) for w in (weights.attention_output_kernel, weights.attention_output_bias))
    return tf.einsum("bdt,de->bte", output_BDT, kernel) + bias


@scoped("attention")
def attention_half(
    x_BTD: tf.Tensor,
    weights: BlockWeights,
    config: GPT2Config,
    seeds_B2: Seeds,
    layer: Layer,
    attention: Attention = PLAIN,
) -> tuple[tf.Tensor, AttentionResiduals]:
    """Returns x + attention(norm(x)) and what the gradient needs."""
    normal, (mean, inverse) = layer_norm(x_BTD, weights.attention_norm_scale, weights.attention_norm_bias)
    q, k, v = query_key_value(normal, weights, config.heads)
    output, log = attention.forward(q, k, v, _attention_dropout(config, seeds_B2, layer))
    output = tf.reshape(output, [-1, config.width, x_BTD.shape[1]])
    branch = attention_output(output, weights)
    branch = dropped(branch, seeds_B2, layer * DROPOUT_SITES + 1, config.dropout)
    return x_BTD + branch, AttentionResiduals(mean, inverse, q, k, v, output, log)


@scoped("attention_gradient")
def attention_half_gradient(
    dy_BTD: tf.Tensor,
    x_BTD: tf.Tensor,
    residuals: AttentionResiduals,
    weights: BlockWeights,
    config: GPT2Config,
    seeds_B2: Seeds,
    layer: Layer,
    attention: Attention,
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """Returns dx and the float32 gradients of the half's six weights."""
    branch = dropped(dy_BTD, seeds_B2, layer * DROPOUT_SITES + 1, config.dropout)
    d_output, *d_projection = _output_gradient(branch, residuals.output, weights, config)
    output = _heads(residuals.output, config.heads)
    dropout = _attention_dropout(config, seeds_B2, layer)
    parts = attention.gradient(d_output, residuals.q, residuals.k, residuals.v, output, residuals.log, dropout)
    d_bias = query_key_value_bias_gradient(parts[0], parts[2], d_projection[1], weights, dropout)
    statistics = (residuals.mean, residuals.inverse)
    normal = normalized(x_BTD, statistics, weights.attention_norm_scale, weights.attention_norm_bias)
    d_normal, d_kernel = query_key_value_gradient(parts, normal, weights)
    dx, *d_norm = layer_norm_gradient(d_normal, x_BTD, statistics, weights.attention_norm_scale)
    return tf.cast(float32(dy_BTD) + dx, x_BTD.dtype), [*d_norm, d_kernel, d_bias, *d_projection]


def _output_gradient(
    dy_BTD: tf.Tensor, output_BDT: tf.Tensor, weights: BlockWeights, config: GPT2Config
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns the gradients of the attention's output, [B, H, K, T], and of its projection's weights."""
    d_output = tf.einsum("bte,de->bdt", dy_BTD, tf.cast(weights.attention_output_kernel, dy_BTD.dtype))
    d_kernel = tf.einsum("bdt,bte->de", float32(output_BDT), float32(dy_BTD))
    return _heads(d_output, config.heads), d_kernel, tf.reduce_sum(float32(dy_BTD), [0, 1])


@scoped("mlp")
def mlp_half(
    x_BTD: tf.Tensor, weights: BlockWeights, config: GPT2Config, seeds_B2: Seeds, layer: Layer
) -> tuple[tf.Tensor, MlpResiduals]:
    """Returns x + mlp(norm(x)) and what the gradient needs."""
    normal, (mean, inverse) = layer_norm(x_BTD, weights.mlp_norm_scale, weights.mlp_norm_bias)
    hidden = dense(normal, weights.mlp_input_kernel, weights.mlp_input_bias)
    branch = dense(gelu(hidden), weights.mlp_output_kernel, weights.mlp_output_bias)
    branch = dropped(branch, seeds_B2, layer * DROPOUT_SITES + 2, config.dropout)
    return x_BTD + branch, MlpResiduals(x_BTD, mean, inverse, hidden)


@scoped("mlp_gradient")
def mlp_half_gradient(
    dy_BTD: tf.Tensor, residuals: MlpResiduals, weights: BlockWeights, config: GPT2Config, seeds_B2: Seeds, layer: Layer
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """Returns dx and the float32 gradients of the half's six weights."""
    branch = dropped(dy_BTD, seeds_B2, layer * DROPOUT_SITES + 2, config.dropout)
    d_gelu, *d_output = dense_gradient(branch, gelu(residuals.hidden), weights.mlp_output_kernel)
    d_hidden = tf.cast(gelu_gradient(d_gelu, residuals.hidden), dy_BTD.dtype)
    statistics = (residuals.mean, residuals.inverse)
    normal = normalized(residuals.middle, statistics, weights.mlp_norm_scale, weights.mlp_norm_bias)
    d_normal, *d_input = dense_gradient(d_hidden, normal, weights.mlp_input_kernel)
    dx, *d_norm = layer_norm_gradient(d_normal, residuals.middle, statistics, weights.mlp_norm_scale)
    return tf.cast(float32(dy_BTD) + dx, dy_BTD.dtype), [*d_norm, *d_input, *d_output]


def block(
    x_BTD: tf.Tensor,
    weights: BlockWeights,
    config: GPT2Config,
    seeds_B2: Seeds,
    layer: Layer,
    attention: Attention = PLAIN,
) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
    """Applies one block.

    Returns:
        The output [B, T, D], and the residuals that ``config.remat`` keeps for ``block_gradient`` besides the input.
    """
    if config.remat == "full":
        weights = BlockWeights(*read_again(x_BTD, weights))
    middle, kept = attention_half(x_BTD, weights, config, seeds_B2, layer, attention)
    y, mlp = mlp_half(middle, weights, config, seeds_B2, layer)
    return y, {"none": (*kept, *mlp), "attention": tuple(mlp), "full": ()}[config.remat]


def block_gradient(
    dy_BTD: tf.Tensor,
    x_BTD: tf.Tensor,
    residuals: tuple[tf.Tensor, ...],
    weights: BlockWeights,
    config: GPT2Config,
    seeds_B2: Seeds,
    layer: Layer,
    attention: Attention = PLAIN,
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """Returns dx [B, T, D] and the float32 gradients of the twelve weights; recomputes residuals that were not kept."""
    if config.remat != "none":
        # Without the barrier XLA recognizes the recomputation and keeps the first results instead.
        x_BTD, dy_BTD = barrier(x_BTD, dy_BTD)
        weights = BlockWeights(*read_again(dy_BTD, weights))
        middle, kept = attention_half(x_BTD, weights, config, seeds_B2, layer, attention)
    else:
        kept = AttentionResiduals(*residuals[: len(AttentionResiduals._fields)])
    if config.remat == "full":
        mlp = mlp_half(middle, weights, config, seeds_B2, layer)[1]
    else:
        mlp = MlpResiduals(*residuals[-len(MlpResiduals._fields) :])
    d_middle, d_mlp = mlp_half_gradient(dy_BTD, mlp, weights, config, seeds_B2, layer)
    dx, d_attention = attention_half_gradient(d_middle, x_BTD, kept, weights, config, seeds_B2, layer, attention)
    return dx, [*d_attention, *d_mlp]


class Block(keras.layers.Layer):
    """Holds one block's weights; the functions above take its ``tensors()``.

    Args:
        width: D.
        initializers: one for each of ``BlockWeights``.

    Example:
        >>> weights = Block(32, BlockWeights(*["zeros"] * 12), name="block_00").tensors()
        >>> y, _ = block(tf.ones([1, 3, 32]), weights, GPT2Config(heads=2, width=32), None, 0)
        >>> bool(tf.reduce_all(y == 1))  # both halves add zero to the residual stream
        True
    """

    def __init__(self, width: int, initializers: BlockWeights, *, name: str):
        super().__init__(name=name, dtype="float32")
        self.variables_by_name = BlockWeights(
            *(
                self.add_weight(shape=shape, initializer=initializer, name=field)
                for field, shape, initializer in zip(
                    BlockWeights._fields, block_weight_shapes(width), initializers, strict=True
                )
            )
        )
        self.built = True

    def tensors(self) -> BlockWeights:
        """Reads the weights."""
        return BlockWeights(*(tf.convert_to_tensor(variable) for variable in self.variables_by_name))
