"""Measures this machine's matrix-multiply peak, the denominator of MFU on a CPU or a GPU."""

import timeit

import tensorflow as tf


def measure(size: int = 1536, repeats: int = 6, dtype: str = "float32") -> float:
    """Returns the best rate of ``repeats`` products of [size, size] matrices, compiled by XLA, in FLOP/s.

    Takes about half a second on two cores. The best, not the mean: other programs can only slow it down.
    """
    generator = tf.random.Generator.from_seed(0)
    a, b = (tf.cast(generator.normal([size, size]), dtype) for _ in "ab")
    product = tf.function(lambda x, y: tf.reduce_sum(tf.matmul(x, y)), jit_compile=True)
    product(a, b).numpy()
    return 2.0 * size**3 / min(timeit.repeat(lambda: product(a, b).numpy(), number=1, repeat=repeats))
