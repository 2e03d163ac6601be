"""The parts of a step that depend on its strategy: the all-reduce, and what XLA compiles."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

Tensors = list[tf.Tensor]
AllReduce = Callable[[Tensors], Tensors]
Compiled = Callable[[Callable], Callable]


def compiled_by_xla(function: Callable) -> Callable:
    """Compiles only ``function``; for strategies whose all-reduce XLA cannot compile (virtual devices, GPUs)."""
    return tf.function(function, jit_compile=True, autograph=False)


def strategy_options(strategy: tf.distribute.Strategy) -> dict[str, Any]:
    """Returns the ``all_reduce`` and ``compiled`` arguments of a step that runs under ``strategy``.

    A TPU compiles the whole replicated step, including the all-reduce; elsewhere XLA compiles the parts around it.
    """
    replicas = strategy.num_replicas_in_sync

    def all_reduce(tensors: Tensors) -> Tensors:
        if replicas == 1:
            return tensors
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, list(tensors))

    on_tpu = isinstance(strategy, tf.distribute.TPUStrategy)
    return {"all_reduce": all_reduce, "compiled": (lambda function: function) if on_tpu else compiled_by_xla}


def replica_of_strategy() -> tf.Tensor:
    """Returns the calling replica's number, from 0, as in tf.distribute."""
    return tf.convert_to_tensor(tf.distribute.get_replica_context().replica_id_in_sync_group)
