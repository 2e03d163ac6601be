"""The optimizer step: one function for a TPU pod, virtual devices, one device and the ahead-of-time compiler.

Shapes: B sequences of one replica's step, A microbatches of M sequences (B = A·M), T context length.

Each replica accumulates float32 gradients of the *summed* token loss over its microbatches; one all-reduce then adds
the replicas' gradients, losses and token counts; the division comes last. So the split of a global batch over replicas
and microbatches changes the result only by float32 rounding. If the optimizer's slots are sharded across the replicas
(sharded_slots.py), each updates its own rows or matrices, and a second all-reduce combines the new weights. If the
update scales by the size of the weights, each replica sums the squares of its own rows, and the first all-reduce adds
them too: a pass over all weights on every replica would cost a v3 core 2 % of a step.
"""

import dataclasses
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from models.loss import summed_nll
from models.protocols import LanguageModel
from pipeline.config.batch_plan import BatchPlan
from pipeline.devices.replicas import AllReduce, Compiled, Tensors, replica_of_strategy
from pipeline.optimizers.base import Optimizer
from pipeline.training import gradients

Batch = dict[str, tf.Tensor]


def make_train_step(
    model: LanguageModel,
    optimizer: Optimizer,
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
        seed: of dropout; a mask is a function of the seed and the example's index.
        all_reduce: sums a list of tensors over the replicas.
        replica_id: returns the calling replica's number, int32; used if the replicas share a part of the update.
        compiled: wraps the parts on either side of an all-reduce.

    Returns:
        A function whose metrics are float32, equal on every replica: the scalars ``loss`` (nats per token),
        ``grad_norm`` (before clipping) and ``skipped`` (1.0 if the loss or a gradient that is not finite left all
        weights unchanged), and ``gradient_norms`` [number of trainable variables], also before clipping.
    """
    computation = _Step(model, optimizer, plan, clip_norm, skip_loss_above, seed, model.trainable_variables)
    split = optimizer.slot_owners > 1
    shares = optimizer.scales_by_weights and plan.replicas > 1 and not split  # each sums the squares of its own rows
    accumulate, update = compiled(computation.accumulate), compiled(computation.update)
    own_squares, assign = compiled(computation.own_squares), compiled(computation.assign)

    @tf.autograph.experimental.do_not_convert  # nothing to convert here; the loop around it is converted
    def step(batch: Batch) -> dict[str, tf.Tensor]:
        nll, weight, *sums = all_reduce([*accumulate(batch), *([own_squares(replica_id())] if shares else [])])
        squares = sums.pop() if shares else None
        metrics, pieces = update(replica_id() if split else None, squares, nll, weight, *sums)
        if split:
            assign(*all_reduce(pieces))
        return metrics

    return step


@dataclasses.dataclass(frozen=True, eq=False)
class _Step:
    """The computations of a step on one replica; the arguments are those of ``make_train_step``."""

    model: LanguageModel
    optimizer: Optimizer
    plan: BatchPlan
    clip_norm: float | None
    skip_loss_above: float | None
    seed: int
    variables: Sequence[keras.Variable]

    def accumulate(self, batch: Batch) -> Tensors:
        """Returns summed nats, summed weights and each variable's gradient over all microbatches, float32."""
        plan = self.plan
        if plan.accumulation == 1:  # several workers' datasets do not know how many rows are theirs
            rows = plan.microbatch
            return self._sums({name: tf.ensure_shape(x, [rows, *x.shape[1:]]) for name, x in batch.items()})
        batch = {name: tf.reshape(x, [plan.accumulation, plan.microbatch, *x.shape[1:]]) for name, x in batch.items()}

        def add_microbatch(i: tf.Tensor, *sums: tf.Tensor) -> tuple[tf.Tensor, ...]:
            more = self._sums({name: x[i] for name, x in batch.items()})
            with tf.name_scope("accumulate"):
                return i + 1, *(total + new for total, new in zip(sums, more, strict=True))

        zeros = [tf.zeros(shape, tf.float32) for shape in ([], [], *(variable.shape for variable in self.variables))]
        _, *sums = tf.while_loop(
            lambda i, *_: i < plan.accumulation, add_microbatch, [0, *zeros], maximum_iterations=plan.accumulation
        )
        return sums

    def _sums(self, microbatch: Batch) -> Tensors:
        """Returns what ``accumulate`` returns, for one microbatch."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            values = [variable.value for variable in self.variables]
            tape.watch(values)
            nll, weight = model_nll(self.model, microbatch, self.seed)
        with tf.name_scope("gradient"):
            found = tape.gradient(nll, values)
        return [nll, weight, *(tf.cast(tf.convert_to_tensor(gradient), tf.float32) for gradient in found)]

    def own_squares(self, replica: tf.Tensor) -> tf.Tensor:
        """Returns a replica's share of the sum of squares of each variable's current weights."""
        return self.optimizer.own_squares(self.variables, replica, self.plan.replicas)

    def update(
        self, replica: tf.Tensor | None, squares: tf.Tensor | None, nll: tf.Tensor, weight: tf.Tensor, *sums: tf.Tensor
    ) -> tuple[dict[str, tf.Tensor], Tensors]:
        """Returns the metrics and, if slots are split, this replica's part of each variable's new weights."""
        loss = nll / weight
        gradient = gradients.clip([total / weight for total in sums], self.clip_norm)
        usable = gradients.usable(loss, gradient.global_norm, self.skip_loss_above)

        def apply() -> tf.Tensor:
            self.optimizer.update(gradient.clipped, self.variables, squares)
            return tf.constant(0.0)

        pieces: Tensors = []
        if replica is None:
            skipped = tf.cond(usable, apply, lambda: tf.constant(1.0))
        else:
            skipped, pieces = self.optimizer.update_own_rows(gradient.clipped, self.variables, replica, usable)
        metrics = {"loss": loss, "skipped": skipped}
        return metrics | {"grad_norm": gradient.global_norm, "gradient_norms": gradient.norms}, pieces

    def assign(self, *weights: tf.Tensor) -> None:
        """Assigns new weights to the variables."""
        for variable, new in zip(self.variables, weights, strict=True):
            variable.assign(new)


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
