"""Causal attention by a forward and a backward TPU kernel, in place of attention.py's TensorFlow ops.

attention_kernels.py, which needs JAX, defines the kernels. Here they are StableHLO, called by XlaCallModule, and need
only TensorFlow.

Shapes: B batch, H heads, K head width, T context, N = B · H.
"""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla  # XlaCallModule has no public alias

from models.attention import Attention
from models.kernel_shapes import Kernels

STABLEHLO_VERSION = 10  # of XlaCallModule's calling convention, as JAX 0.7 to 0.10 write it
KernelsFor = Callable[[int, int, int, str], Kernels]  # of N, K, T and the dtype's name


def fused(kernels_for: KernelsFor, platform: str = "TPU") -> Attention:
    """Returns attention by the kernels that ``kernels_for`` returns, lowered for XLA's platform TPU or CPU."""

    def call(module: bytes, arguments: Sequence[tf.Tensor], results: Sequence[tf.TensorSpec]) -> list[tf.Tensor]:
        return xla.call_module(
            list(arguments),
            version=STABLEHLO_VERSION,
            module=module,
            Tout=[result.dtype for result in results],
            Sout=[result.shape for result in results],
            platforms=[platform],
            disabled_checks=["platform"],
        )

    def forward(
        q_BHKT: tf.Tensor, k_BHKT: tf.Tensor, v_BHKT: tf.Tensor, dropout: Any = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        assert dropout is None, "kernel_shapes.refusal() refuses dropout"
        q, k, v = (_merged(tensor) for tensor in (q_BHKT, k_BHKT, v_BHKT))
        log = tf.TensorSpec([q.shape[0], 1, q.shape[2]], tf.float32)
        o, log = call(_kernels(kernels_for, q).forward, [q, k, v], [tf.TensorSpec(q.shape, q.dtype), log])
        batch, heads, _, length = q_BHKT.shape
        return tf.reshape(o, q_BHKT.shape), tf.reshape(log, [batch, heads, length])

    def gradient(
        do_BHKT: tf.Tensor,
        q_BHKT: tf.Tensor,
        k_BHKT: tf.Tensor,
        v_BHKT: tf.Tensor,
        o_BHKT: tf.Tensor,
        log_BHT: tf.Tensor,
        dropout: Any = None,
    ) -> tuple[tf.Tensor, ...]:
        assert dropout is None, "kernel_shapes.refusal() refuses dropout"
        q, k, v, o, do = (_merged(tensor) for tensor in (q_BHKT, k_BHKT, v_BHKT, o_BHKT, do_BHKT))
        log = tf.reshape(log_BHT, [q.shape[0], 1, q.shape[2]])
        parts = call(_kernels(kernels_for, q).backward, [q, k, v, o, log, do], [tf.TensorSpec(q.shape, q.dtype)] * 3)
        return tuple(tf.reshape(part, q_BHKT.shape) for part in parts)

    return Attention(forward, gradient)


def _kernels(kernels_for: KernelsFor, q_NKT: tf.Tensor) -> Kernels:
    heads, head_width, length = q_NKT.shape
    return kernels_for(heads, head_width, length, q_NKT.dtype.name)


def _merged(tensor_BHKT: tf.Tensor) -> tf.Tensor:
    batch, heads, head_width, length = tensor_BHKT.shape
    return tf.reshape(tensor_BHKT, [batch * heads, head_width, length])
