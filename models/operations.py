"""The small operations of a block, each with the gradient that its backward pass uses.

They are pairs, not left to automatic differentiation, because the pair decides what is kept between the passes: here
only inputs that are kept anyway, and two float32 scalars per token. The fusion that needs anything else recomputes it,
which costs no memory traffic.

Shapes: B batch, T context, D width, F any features, N = B·T tokens.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import tensorflow as tf
from tensorflow.compiler.tf2xla.ops import gen_xla_ops  # XlaOptimizationBarrier has no public alias

LAYER_NORM_EPSILON = 1e-5
_GELU_A = 0.7978845608028654  # sqrt(2 / pi)
_GELU_B = 0.044715


Statistics = tuple[tf.Tensor, tf.Tensor]  # mean and 1/deviation of each token


def float32(x: tf.Tensor) -> tf.Tensor:
    """Returns ``x`` in float32."""
    return tf.cast(x, tf.float32)


def scoped(name: str) -> Callable[[Callable], Callable]:
    """Puts a function's ops in a name scope, for the compiled program's buffers and profiles."""

    def decorate(function: Callable) -> Callable:
        @functools.wraps(function)
        def inside(*args: Any, **kwargs: Any) -> Any:
            with tf.name_scope(name):
                return function(*args, **kwargs)

        return inside

    return decorate


def barrier(*tensors: tf.Tensor) -> list[tf.Tensor]:
    """Returns the tensors; keeps XLA from merging what follows with an earlier, equal computation."""
    if tf.executing_eagerly():
        return list(tensors)  # the op exists only inside XLA, and eager code merges nothing
    return gen_xla_ops.xla_optimization_barrier(list(tensors))


def read_again(x: tf.Tensor, weights: Iterable[tf.Tensor]) -> list[tf.Tensor]:
    """Returns float32 weights unchanged, but dependent on ``x``, so that XLA casts them where they are used.

    Otherwise XLA moves a weight's cast out of a loop, and from the backward pass to the forward pass, past any barrier;
    then all blocks' bfloat16 copies live at once. A factor of one computed from ``x`` costs nothing.
    """
    first = x[(0,) * x.shape.rank]
    one = tf.cast(first == first, tf.float32)  # NaN gives 0, but then the step is lost anyway
    return [weight * one for weight in weights]


def layer_norm(
    x_BTD: tf.Tensor, scale_D: tf.Tensor, bias_D: tf.Tensor
) -> tuple[tf.Tensor, tuple[tf.Tensor, tf.Tensor]]:
    """Normalizes the last axis in float32 (Ba et al. 2016), epsilon 1e-5.

    Returns:
        The result in the dtype of ``x_BTD``, and (mean, 1/deviation), float32 [B, T, 1], for the gradient.
    """
    x = float32(x_BTD)
    mean = tf.reduce_mean(x, -1, keepdims=True)
    if x_BTD.dtype == tf.bfloat16:
        # One pass. It loses digits if the mean is large, but bfloat16 itself has lost more of such values.
        variance = tf.maximum(tf.reduce_mean(tf.square(x), -1, keepdims=True) - tf.square(mean), 0.0)
    else:
        variance = tf.reduce_mean(tf.square(x - mean), -1, keepdims=True)
    inverse = tf.math.rsqrt(variance + LAYER_NORM_EPSILON)
    return normalized(x_BTD, (mean, inverse), scale_D, bias_D), (mean, inverse)


def normalized(x_BTD: tf.Tensor, statistics: Statistics, scale_D: tf.Tensor, bias_D: tf.Tensor) -> tf.Tensor:
    """Returns the layer norm of ``x_BTD`` from given statistics."""
    mean, inverse = statistics
    return tf.cast((float32(x_BTD) - mean) * inverse * scale_D + bias_D, x_BTD.dtype)


def layer_norm_gradient(
    dy_BTD: tf.Tensor, x_BTD: tf.Tensor, statistics: Statistics, scale_D: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns float32 (dx [B, T, D], dscale [D], dbias [D])."""
    mean, inverse = statistics
    dy = float32(dy_BTD)
    unit = (float32(x_BTD) - mean) * inverse
    scaled = dy * scale_D
    along = tf.reduce_mean(scaled * unit, -1, keepdims=True)
    dx = (scaled - tf.reduce_mean(scaled, -1, keepdims=True) - unit * along) * inverse
    return dx, tf.reduce_sum(dy * unit, [0, 1]), tf.reduce_sum(dy, [0, 1])


def gelu(x: tf.Tensor) -> tf.Tensor:
    """GELU in its tanh form (Hendrycks & Gimpel 2016), in float32, returned in the dtype of ``x``."""
    u = float32(x)
    return tf.cast(0.5 * u * (1.0 + tf.tanh(_GELU_A * (u + _GELU_B * u * u * u))), x.dtype)


def gelu_gradient(dy: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """Returns ``dy`` times the derivative of ``gelu`` at ``x``, float32."""
    dy, u = float32(dy), float32(x)
    t = tf.tanh(_GELU_A * (u + _GELU_B * u * u * u))
    first, second = 0.5 * (1.0 + t), 0.5 * u * (1.0 - t * t) * _GELU_A * (1.0 + 3.0 * _GELU_B * u * u)
    if x.dtype == tf.float32:
        # The bias's gradient sums this over tokens. XLA on a CPU sums the result of an addition fast, but not that of a
        # multiplication: 4 % of a block's forward and backward pass.
        return dy * first + dy * second
    return dy * (first + second)


def dense(x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """Returns ``x @ kernel + bias`` in the dtype of ``x``; float32 weights are cast here, one layer at a time."""
    return tf.matmul(x, tf.cast(kernel, x.dtype)) + tf.cast(bias, x.dtype)


def dense_gradient(dy: tf.Tensor, x: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns (dx in the dtype of ``dy``, float32 dkernel, float32 dbias)."""
    dx = tf.matmul(dy, tf.cast(kernel, dy.dtype), transpose_b=True)
    rows = tf.reshape(dy, [-1, dy.shape[-1]])
    # The operands are cast, not the product: a TPU still multiplies them as bfloat16 and accumulates in float32.
    dkernel = tf.matmul(float32(tf.reshape(x, [-1, x.shape[-1]])), float32(rows), transpose_a=True)
    return dx, dkernel, tf.reduce_sum(float32(rows), 0)


def keep_mask(seeds_B2: tf.Tensor, site: tf.Tensor | int, index: tf.Tensor, rate: float) -> tf.Tensor:
    """Returns dropout's factor, 0 or 1/(1 − rate), as a pure function of example and index: a counter-based hash.

    There is no generator and no state: the backward pass, another microbatch split or another replica count gets the
    same values. The mixing step is the 32-bit finalizer of MurmurHash3 (Appleby), applied to the example's key and then
    to key and index.

    Args:
        seeds_B2: int32, two words per example.
        site: this dropout's number in the model; a scalar int32.
        index: int32 index inside one example, shape [...] without the batch axis.
        rate: probability of 0.

    Returns:
        float32 [B, ...].
    """
    key = _mix(seeds_B2[:, 0] + _mix(seeds_B2[:, 1] + _mix(tf.cast(site, tf.int32) + 0x3C6EF372)))
    key = tf.reshape(key, [-1] + [1] * len(index.shape))
    bits = _mix(key + index * -1640531527)  # 2³² / golden ratio, odd: neighbors land far apart
    fraction = tf.bitcast(tf.bitwise.right_shift(tf.bitcast(bits, tf.uint32), tf.constant(8, tf.uint32)), tf.int32)
    return tf.where(fraction >= int(rate * (1 << 24)), 1.0 / (1.0 - rate), 0.0)


def _mix(x: tf.Tensor) -> tf.Tensor:
    def shifted(value: tf.Tensor, places: int) -> tf.Tensor:
        unsigned = tf.bitwise.right_shift(tf.bitcast(value, tf.uint32), tf.constant(places, tf.uint32))
        return tf.bitcast(unsigned, tf.int32)  # int32 multiplies everywhere, uint32 does not

    x = tf.bitwise.bitwise_xor(x, shifted(x, 16)) * -2048144789
    x = tf.bitwise.bitwise_xor(x, shifted(x, 13)) * -1028477387
    return tf.bitwise.bitwise_xor(x, shifted(x, 16))


def dropped(x_BTF: tf.Tensor, seeds_B2: tf.Tensor | None, site: tf.Tensor | int, rate: float) -> tf.Tensor:
    """Applies dropout to ``x_BTF``, or to a gradient in the backward pass. ``None`` seeds: no dropout."""
    if seeds_B2 is None or rate == 0.0:
        return x_BTF
    places = x_BTF.shape[1] * x_BTF.shape[2]
    index = tf.reshape(tf.range(places, dtype=tf.int32), x_BTF.shape[1:])
    return tf.cast(float32(x_BTF) * keep_mask(seeds_B2, site, index, rate), x_BTF.dtype)
