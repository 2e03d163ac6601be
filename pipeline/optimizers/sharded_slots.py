"""Slots that are split over the replicas (ZeRO stage 1, Rajbhandari et al., 2020, https://arxiv.org/abs/1910.02054).

Shapes: R replicas, N rows of a variable (its first axis), C = ceil(N / R) rows of a block. Replica r owns the rows r·C
… r·C + C - 1 of the variable padded with zeros to R·C rows: only it has their slots and updates them. The step's second
all-reduce combines the new weights: each block is surrounded by zeros, and x + 0 is x. Rows are not flattened: blocks
would be even, but a TPU would have to change every variable's layout.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.compiler.tf2xla.ops import gen_xla_ops  # XlaDynamicUpdateSlice has no public alias

from pipeline.optimizers.config import block_shape

TRANSFERS = 16  # at once, between this host and the replicas' hosts; on a pod each takes a round trip


def own_rows(x: tf.Tensor, replica: tf.Tensor, replicas: int) -> tf.Tensor:
    """Returns the block [C, ...] of ``x`` [N, ...] that a replica owns."""
    block = block_shape(x.shape, replicas)
    padding = replicas * block[0] - x.shape[0]
    if padding:
        x = tf.pad(x, [[0, padding], *([0, 0] for _ in block[1:])])
    return tf.slice(x, _start(replica * block[0], len(block)), block)


def own_sum_of_squares(x: tf.Tensor, replica: tf.Tensor, replicas: int) -> tf.Tensor:
    """Returns a replica's share of the sum of x² over ``x`` [N, ...]: its own rows, without padding ``x``."""
    block = block_shape(x.shape, replicas)
    first = replica * block[0]
    start = tf.minimum(first, x.shape[0] - block[0])  # the last blocks begin where a whole block still fits
    rows = tf.reduce_sum(tf.square(tf.slice(x, _start(start, len(block)), block)), list(range(1, len(block))))
    return tf.reduce_sum(tf.where(start + tf.range(block[0]) >= first, rows, 0.0))


def placed(rows: tf.Tensor, shape: Sequence[int], replica: tf.Tensor, replicas: int) -> tf.Tensor:
    """Returns zeros [N, ...] with a replica's block [C, ...] in its place; must be compiled by XLA."""
    zeros = tf.zeros([replicas * rows.shape[0], *shape[1:]], rows.dtype)
    return gen_xla_ops.xla_dynamic_update_slice(zeros, rows, _start(replica * rows.shape[0], len(shape)))[: shape[0]]


def _start(row: tf.Tensor, axes: int) -> tf.Tensor:
    """Returns the index at which rows from this one on begin, in an array of ``axes`` axes."""
    return tf.stack([row, *([0] * (axes - 1))])


class WholeSlot:
    """A split slot as a checkpoint sees it: one array of the variable's shape, whatever the number of replicas.

    Args:
        slot: created in the scope of a strategy, all of whose replicas this process can reach.
        shape: [N, ...], of the whole slot.
    """

    def __init__(self, slot: keras.Variable, shape: Sequence[int]):
        self._slot, self.shape = slot, tf.TensorShape(shape)

    def numpy(self) -> np.ndarray:
        """Returns the replicas' blocks as one array, without the padding."""
        return np.concatenate(_at_once(lambda copy: copy.numpy(), self._slot.value.values))[: self.shape[0]]

    def assign(self, whole: np.ndarray) -> None:
        """Assigns to each replica its block of an array of the whole shape."""
        copies, rows = self._slot.value.values, self._slot.shape[0]
        padded = np.zeros([len(copies) * rows, *whole.shape[1:]], whole.dtype)
        padded[: len(whole)] = whole
        _at_once(lambda r: copies[r].assign(padded[r * rows : (r + 1) * rows]), range(len(copies)))


class WholeMatrices:
    """The momentum of a kernel as a checkpoint sees it: one array, though several replicas own its matrices.

    Args:
        owned: for each matrix of the kernel, side by side, the slot that holds it, shorter axis first, and its owner.
        shape: [N, M], of the kernel.
    """

    def __init__(self, owned: Sequence[tuple[keras.Variable, int]], shape: Sequence[int]):
        self._owned, self.shape = list(owned), tf.TensorShape(shape)
        self._transposed = shape[0] * len(self._owned) > shape[1]

    def numpy(self) -> np.ndarray:
        """Returns the matrices as one array."""
        matrices = _at_once(lambda place: place[0].value.values[place[1]].numpy(), self._owned)
        return np.concatenate([matrix.T if self._transposed else matrix for matrix in matrices], axis=1)

    def assign(self, whole: np.ndarray) -> None:
        """Assigns to each owner its matrix of an array of the whole shape."""
        matrices = np.split(np.asarray(whole), len(self._owned), axis=1)

        def assign(number: int) -> None:
            (slot, owner), matrix = self._owned[number], matrices[number]
            slot.value.values[owner].assign(matrix.T if self._transposed else matrix)

        _at_once(assign, range(len(self._owned)))


def _at_once(function: Callable[[Any], Any], things: Iterable[Any]) -> list[Any]:
    with ThreadPoolExecutor(TRANSFERS) as pool:
        return list(pool.map(function, things))
