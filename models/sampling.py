"""Chooses the next token: the most likely, or a sample with temperature, top-k, top-p and repetition penalty.

Shapes: B batch, V vocabulary.
"""

from dataclasses import dataclass

import tensorflow as tf

NEVER = -1e30  # a logit that is never drawn, and finite
GREEDY_BELOW = 1e-20  # temperature; dividing a logit by a smaller one may give less than NEVER, or infinity
PENALTIES = (1e-6, 1e6)  # lower and upper bound; beyond them float32 leaves that range too


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen.

    Args:
        temperature: divides the logits; 0, or a value too small for float32, takes the most likely token (greedy) and
            ignores top_k and top_p.
        top_k: only the k most likely tokens; 0: no limit. Tokens that tie with the k-th stay.
        top_p: only the fewest most likely tokens whose probabilities add up to p (Holtzman et al. 2020); 1: no limit.
        repetition_penalty: divides positive logits of tokens already in the row and multiplies negative ones (Keskar et
            al. 2019); 1: no penalty.

    Raises:
        ValueError: a value out of range.

    Example:
        >>> logits, seen = tf.constant([[0.0, 3.0, 2.0]]), tf.constant([[False, True, False]])
        >>> choose(logits, seen, Sampling(temperature=0, repetition_penalty=2), tf.constant([0, 0])).numpy()
        array([2], dtype=int32)
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature={self.temperature}: expected 0 (greedy) or more, and finite")
        if self.top_k < 0:
            raise ValueError(f"top_k={self.top_k}: expected 0 (no limit) or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p}: expected more than 0 and at most 1 (no limit)")
        if not PENALTIES[0] <= self.repetition_penalty <= PENALTIES[1]:
            raise ValueError(
                f"repetition_penalty={self.repetition_penalty}: expected {PENALTIES[0]:f} to {PENALTIES[1]:,.0f}; "
                f"1 is none"
            )


DEFAULT = Sampling()


def choose(logits_BV: tf.Tensor, seen_BV: tf.Tensor, sampling: Sampling, seed_2: tf.Tensor) -> tf.Tensor:
    """Returns one token per row, int32 [B].

    Args:
        logits_BV: float32 logits of the next token.
        seen_BV: bool, tokens already in the row.
        sampling: how to choose.
        seed_2: int32, two words; the same ones give the same draw.
    """
    penalty = sampling.repetition_penalty
    if penalty != 1.0:
        punished = tf.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty)
        logits_BV = tf.where(seen_BV, punished, logits_BV)
    if sampling.temperature < GREEDY_BELOW:
        return _likeliest(logits_BV)
    logits_BV /= sampling.temperature
    if sampling.top_k:
        logits_BV = _keep_highest(logits_BV, tf.ones_like(logits_BV), float(min(sampling.top_k, logits_BV.shape[1])))
    if sampling.top_p < 1:
        logits_BV = _keep_highest(logits_BV, tf.nn.softmax(logits_BV), sampling.top_p)
    return _drawn(logits_BV, seed_2)


def choose_by(
    logits_BV: tf.Tensor, temperature: tf.Tensor, top_k: tf.Tensor, top_p: tf.Tensor, seed_2: tf.Tensor
) -> tf.Tensor:
    """Returns one token per row, int32 [B], like ``choose`` without a penalty, but with settings that are tensors.

    Args:
        logits_BV: as for ``choose``.
        temperature: a float32 scalar in the range of ``Sampling``, as the next two are.
        top_k: an int32 scalar.
        top_p: a float32 scalar.
        seed_2: as for ``choose``.
    """

    def draw() -> tf.Tensor:
        warm_BV = logits_BV / temperature
        ones, enough = tf.ones_like(warm_BV), tf.cast(tf.minimum(top_k, warm_BV.shape[1]), tf.float32)
        warm_BV = tf.cond(top_k > 0, lambda: _keep_highest(warm_BV, ones, enough), lambda: warm_BV)
        return _drawn(
            tf.cond(top_p < 1, lambda: _keep_highest(warm_BV, tf.nn.softmax(warm_BV), top_p), lambda: warm_BV), seed_2
        )

    return tf.cond(temperature >= GREEDY_BELOW, draw, lambda: _likeliest(logits_BV))


def _drawn(logits_BV: tf.Tensor, seed_2: tf.Tensor) -> tf.Tensor:
    """Samples with the Gumbel trick: the argmax of logits plus Gumbel noise is a draw from their softmax.

    It makes the uniform numbers from bits, since XLA and TensorFlow's own kernels turn the same bits into different
    numbers. So a seed gives the same text in a SavedModel.
    """
    bits = tf.random.stateless_uniform(logits_BV.shape, seed_2, minval=None, maxval=None, dtype=tf.uint32, alg="philox")
    fraction = tf.bitcast(tf.bitwise.right_shift(bits, tf.constant(9, tf.uint32)), tf.int32)
    uniform = tf.maximum(tf.cast(fraction, tf.float32) * 2.0**-23, 1e-20)
    return _likeliest(logits_BV - tf.math.log(-tf.math.log(uniform)))


def _likeliest(logits_BV: tf.Tensor) -> tf.Tensor:
    """Returns the first of the highest logits, int32 [B], in two passes, faster on a CPU than XLA's argmax."""
    vocabulary = logits_BV.shape[1]
    highest = logits_BV >= tf.reduce_max(logits_BV, -1, keepdims=True)
    return tf.reduce_min(tf.where(highest, tf.range(vocabulary), vocabulary - 1), -1)


def _keep_highest(logits_BV: tf.Tensor, weights_BV: tf.Tensor, enough: tf.Tensor | float) -> tf.Tensor:
    """Keeps the fewest highest logits whose weights add up to ``enough``; the others become −1e30.

    Bisects for the threshold over the 32 bits of an ordered integer instead of sorting the vocabulary: each pass is one
    masked sum, and the result is exact.
    """
    bits = tf.bitcast(logits_BV, tf.int32)
    order = tf.where(bits < 0, tf.bitwise.bitwise_xor(bits, 0x7FFFFFFF), bits)  # integers in the floats' order

    def halve(
        step: tf.Tensor, low: tf.Tensor, high: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:  # order >= low is enough, order >= high is not
        # (low + high) / 2, rounded up, without overflow
        middle = tf.bitwise.right_shift(low, 1) + tf.bitwise.right_shift(high, 1)
        middle += tf.bitwise.bitwise_or(tf.bitwise.bitwise_and(low, 1), tf.bitwise.bitwise_and(high, 1))
        fits = tf.reduce_sum(tf.where(order >= middle, weights_BV, 0.0), -1, keepdims=True) >= enough
        return step + 1, tf.where(fits, middle, low), tf.where(fits, high, middle)

    low = tf.reduce_min(order, -1, keepdims=True)  # rounding may leave even the whole sum a little under top_p
    high = tf.reduce_max(order, -1, keepdims=True) + 1
    _, low, _ = tf.while_loop(lambda step, *_: step < 33, halve, (tf.constant(0), low, high))
    low = tf.minimum(low, high - 1)  # the highest stays, even where float32 makes 0 of a tiny top_p
    return tf.where(order >= low, logits_BV, NEVER)
