"""The optimizer step: one function for a TPU pod, virtual devices, one device and the ahead-of-time compiler.

Shapes: B sequences of one replica's step, A microbatches of M sequences (B = A·M), T context length.

Each replica accumulates float32 gradients of the *summed* token loss over its microbatches; one all-reduce then adds
the replicas' gradients, losses and token counts; only then is anything divided. So the split of a global batch over
replicas and microbatches changes the result only by float32 rounding. If the optimizer's slots are split over the
replicas (sharded_slots.py), each updates its own rows, and a second all-reduce combines the new weights.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from models.loss import summed_nll
from models.protocols import LanguageModel
from pipeline.config.batch_plan import BatchPlan
from pipeline.devices.replicas import AllReduce, Compiled, Tensors, replica_of_strategy
from pipeline.optimizers.protocols import TrainOptimizer
from pipeline.optimizers.sharded_slots import update_own_rows

Batch = dict[str, tf.Tensor]


def make_train_step(
    model: LanguageModel,
    optimizer: TrainOptimizer,
    plan: BatchPlan,
    *,
    clip_norm: float | None,
    skip_loss_above: float | None = None,
    seed: int = 0,
    all_reduce: AllReduce,
    replica_id: Callable[[], tf.Tensor] = replica_of_strategy,
    compiled: Compiled = lambda function: function,
) -> Callable[[Batch], dict[str, tf.Tensor]]:
    """Returns ``step(batch) -> metrics``, to be called in a replica context.

    Args:
        model: from ``models.build``, created in the strategy's scope.
        optimizer: built on ``model.trainable_variables``; its ``update`` assigns in place.
        plan: batch arithmetic; ``batch`` holds ``tokens`` int32 [B, T+1] and ``index`` int64 [B] with B = A·M, and
            ``weights`` float32 [B, T] if some labels are not scored.
        clip_norm: bound on the global norm of the mean gradient, or None.
        skip_loss_above: nats per token; a higher loss leaves all weights unchanged. None sets no bound.
        seed: of dropout; a mask is a function of it and of the example's index.
        all_reduce: sums a list of tensors over the replicas.
        replica_id: returns the number of the calling replica, int32; called if the optimizer's slots are split.
        compiled: wraps the parts on either side of an all-reduce.

    Returns:
        A function whose metrics are float32, equal on every replica: the scalars ``loss`` (nats per token),
        ``grad_norm`` (before clipping) and ``skipped`` (1.0 if the loss or a gradient that is not finite left all
        weights unchanged), and ``gradient_norms`` [number of trainable variables], also before clipping.
    """
    variables = model.trainable_variables
    split = optimizer.slot_owners > 1

    def sums_of(microbatch: Batch) -> Tensors:
        """Returns summed nats, summed weights and the gradient of each variable, all float32."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            values = [variable.value for variable in variables]
            tape.watch(values)
            nll, weight = model_nll(model, microbatch, seed)
        with tf.name_scope("gradient"):
            gradients = tape.gradient(nll, values)
        return [nll, weight, *(tf.cast(tf.convert_to_tensor(gradient), tf.float32) for gradient in gradients)]

    def accumulate(batch: Batch) -> Tensors:
        if plan.accumulation == 1:  # several workers' datasets do not know how many rows are theirs
            rows = plan.microbatch
            return sums_of({name: tf.ensure_shape(part, [rows, *part.shape[1:]]) for name, part in batch.items()})
        batch = {
            name: tf.reshape(part, [plan.accumulation, plan.microbatch, *part.shape[1:]])
            for name, part in batch.items()
        }

        def add_microbatch(i, *sums):
            parts = sums_of({name: part[i] for name, part in batch.items()})
            with tf.name_scope("accumulate"):
                return i + 1, *(total + part for total, part in zip(sums, parts, strict=True))

        zeros = [tf.zeros(shape, tf.float32) for shape in ([], [], *(variable.shape for variable in variables))]
        _, *sums = tf.while_loop(
            lambda i, *_: i < plan.accumulation, add_microbatch, [0, *zeros], maximum_iterations=plan.accumulation
        )
        return sums

    def update(replica: tf.Tensor | None, nll: tf.Tensor, weight: tf.Tensor, *sums: tf.Tensor) -> tuple[Any, Tensors]:
        """Returns the metrics and, if slots are split, this replica's rows of each variable's new weights."""
        loss, gradients = nll / weight, [gradient / weight for gradient in sums]
        squares = [tf.reduce_sum(tf.square(gradient)) for gradient in gradients]
        norm = tf.sqrt(tf.add_n(squares))
        usable = tf.math.is_finite(norm) & tf.math.is_finite(loss)
        if skip_loss_above is not None:
            usable &= loss <= skip_loss_above
        if clip_norm is not None:
            clip = tf.minimum(1.0, clip_norm / tf.maximum(norm, 1e-30))
            gradients = [gradient * clip for gradient in gradients]

        def apply():
            optimizer.update(gradients, variables)
            return tf.constant(0.0)

        if split:
            skipped, parts = update_own_rows(optimizer, gradients, variables, replica, usable)
        else:
            skipped, parts = tf.cond(usable, apply, lambda: tf.constant(1.0)), []
        metrics = {"loss": loss, "grad_norm": norm, "skipped": skipped, "gradient_norms": tf.sqrt(tf.stack(squares))}
        return metrics, parts

    def assign(*weights: tf.Tensor) -> None:
        for variable, new in zip(variables, weights, strict=True):
            variable.assign(new)

    accumulate, update, assign = compiled(accumulate), compiled(update), compiled(assign)

    @tf.autograph.experimental.do_not_convert  # nothing to convert, and the loop around it is converted
    def step(batch: Batch) -> dict[str, tf.Tensor]:
        metrics, parts = update(replica_id() if split else None, *all_reduce(accumulate(batch)))
        if split:
            assign(*all_reduce(parts))
        return metrics

    return step


def model_nll(model: LanguageModel, microbatch: Batch, seed: int = 0) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the summed negative log-likelihood (nats) and the summed weights of a microbatch, float32 scalars."""
    tokens, index = microbatch["tokens"], microbatch["index"]
    seeds = None
    if model.config.dropout:
        low, high = index % 2**31, tf.bitwise.bitwise_xor(index // 2**31, seed % 2**31)
        seeds = tf.cast(tf.stack([low, high], axis=-1), tf.int32)
    features = model.features(tokens[:, :-1], seeds)
    labels = tf.reshape(tokens[:, 1:], [-1])
    weights = tf.reshape(microbatch["weights"], [-1]) if "weights" in microbatch else tf.ones(labels.shape, tf.float32)
    nll = summed_nll(
        tf.reshape(features, [-1, features.shape[-1]]),
        model.table.value,
        labels,
        weights,
        vocabulary_size=model.config.known_vocabulary,
    )
    return nll, tf.reduce_sum(weights)
