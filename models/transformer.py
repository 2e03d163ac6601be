"""Two ways to stack blocks: GPT-2's, with separate weights each, and ALGPT2's, one block in a loop.

Shapes: B batch, T context, D width.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from models.attention import PLAIN, Attention
from models.block import BlockWeights, Layer, Seeds, block, block_gradient
from models.config import GPT2Config
from models.operations import scoped


def apply_block(
    x_BTD: tf.Tensor,
    weights: BlockWeights,
    config: GPT2Config,
    seeds_B2: Seeds,
    layer: int,
    attention: Attention = PLAIN,
) -> tf.Tensor:
    """Applies one block of GPT-2, with ``block_gradient`` as its gradient."""

    @tf.custom_gradient
    @scoped(f"block_{layer:02d}")
    def apply(x_BTD: tf.Tensor, *weights: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        y, residuals = block(x_BTD, BlockWeights(*weights), config, seeds_B2, layer, attention)

        @scoped(f"block_{layer:02d}")
        def gradient(dy_BTD: tf.Tensor) -> list[tf.Tensor]:
            dx, d_weights = block_gradient(
                dy_BTD, x_BTD, residuals, BlockWeights(*weights), config, seeds_B2, layer, attention
            )
            return [dx, *d_weights]

        return y, gradient

    return apply(x_BTD, *weights)


def apply_shared_block(
    x_BTD: tf.Tensor, weights: BlockWeights, config: GPT2Config, seeds_B2: Seeds, attention: Attention = PLAIN
) -> tf.Tensor:
    """Applies one block ``config.layers`` times; the compiled forward and backward loops contain one block each.

    The backward loop accumulates the layers' weight gradients in float32.
    """
    layers = config.layers

    @tf.custom_gradient
    @scoped("shared_block")
    def apply(x_BTD: tf.Tensor, *weights: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        weights = BlockWeights(*weights)
        y, stacks = _forward_loop(x_BTD, weights, config, seeds_B2, attention)

        @scoped("shared_block")
        def gradient(dy_BTD: tf.Tensor) -> tuple[tf.Tensor, ...]:
            def backward(step: tf.Tensor, dy: tf.Tensor, *sums: tf.Tensor) -> tuple[tf.Tensor, ...]:
                layer = layers - 1 - step
                x, *residuals = (tf.gather(stack, layer) for stack in stacks)
                dx, d_weights = block_gradient(dy, x, tuple(residuals), weights, config, seeds_B2, layer, attention)
                return step + 1, dx, *(total + part for total, part in zip(sums, d_weights, strict=True))

            start = (tf.constant(0), dy_BTD, *(tf.zeros(weight.shape, tf.float32) for weight in weights))
            return tf.while_loop(lambda step, *_: step < layers, backward, start, maximum_iterations=layers)[1:]

        return y, gradient

    return apply(x_BTD, *weights)


def _forward_loop(
    x_BTD: tf.Tensor, weights: BlockWeights, config: GPT2Config, seeds_B2: Seeds, attention: Attention
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """Returns the output and, stacked over layers, the blocks' inputs and residuals."""
    with tf.Graph().as_default():  # only the shapes and dtypes of the residuals
        described = [tf.zeros(tensor.shape, tensor.dtype) for tensor in (x_BTD, *weights)]
        seeds = None if seeds_B2 is None else tf.zeros(seeds_B2.shape, tf.int32)
        residuals = [x_BTD, *block(described[0], BlockWeights(*described[1:]), config, seeds, 0)[1]]
    arrays = [tf.TensorArray(tensor.dtype, size=config.layers, element_shape=tensor.shape) for tensor in residuals]

    def forward(layer: Layer, x: tf.Tensor, *arrays: tf.TensorArray) -> tuple[Any, ...]:
        y, residuals = block(x, weights, config, seeds_B2, layer, attention)
        return layer + 1, y, *(array.write(layer, part) for array, part in zip(arrays, (x, *residuals), strict=True))

    start = (tf.constant(0), x_BTD, *arrays)
    _, y, *arrays = tf.while_loop(
        lambda layer, *_: layer < config.layers, forward, start, maximum_iterations=config.layers
    )
    return y, [array.stack() for array in arrays]
