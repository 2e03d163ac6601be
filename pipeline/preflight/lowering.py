"""Lowers a run's exact step to HLO, for any number of replicas, without allocating its weights.

compile_step.py calls each function in a separate process. Variables get memory that is reserved but never touched, so
lowering GPT-2 xl with AdamW, 19 GB of state, needs no more memory than its graph. XLA's all-reduce over all replicas
replaces tf.distribute's on the pod.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from models.config import GPT2Config
from pipeline import cli
from pipeline.config.batch_plan import BatchPlan
from pipeline.config.train_config import TrainConfig, schedule_of
from pipeline.devices import fused_kernels
from pipeline.optimizers.config import OptimizerConfig


@contextlib.contextmanager
def unfilled_variables() -> Iterator[None]:
    """Creates variables of the right shape whose initializers never run; their memory is never touched."""
    import tensorflow as tf

    def create(next_creator: Callable[..., tf.Variable], **arguments: Any) -> tf.Variable:
        initial = arguments["initial_value"]
        if callable(initial):
            with tf.Graph().as_default():
                described = initial()
            empty = {"shape": described.shape, "dtype": described.dtype, "init": False}
            arguments["initial_value"] = lambda: tf.raw_ops.Empty(**empty)
        return next_creator(**arguments)

    with tf.variable_creator_scope(create):
        yield


def all_reduce_over(replicas: int) -> Callable[[list], list]:
    """Returns XLA's own all-reduce over this many replicas; the identity for one."""
    import tensorflow as tf
    from tensorflow.compiler.tf2xla.ops import gen_xla_ops  # XlaAllReduce has no public alias

    def all_reduce(tensors: list[tf.Tensor]) -> list[tf.Tensor]:
        if replicas == 1:
            return list(tensors)
        group = tf.constant([list(range(replicas))], tf.int32)
        return [gen_xla_ops.xla_all_reduce(tensor, group, "Add", "CrossReplica") for tensor in tensors]

    return all_reduce


def lower_train(
    model_config: GPT2Config,
    optimizer_config: OptimizerConfig,
    settings: TrainConfig,
    plan: BatchPlan,
    attention: str = "plain",
) -> tuple[bytes, dict[str, int]]:
    """Returns the serialized HLO of one optimizer step on one replica, and bytes by purpose.

    All of the plan's replicas take part in the all-reduce; its input counts besides the weights and the slots.
    ``attention`` is an ``AttentionPath``'s name.
    """
    cli.import_tensorflow()
    import tensorflow as tf
    from tensorflow.compiler.tf2xla.ops import gen_xla_ops

    from pipeline.optimizers.build import build
    from pipeline.training.step import make_train_step

    with unfilled_variables():
        optimizer = build(optimizer_config, schedule_of(settings))
        model = _model(model_config, settings, attention)
        optimizer.build(model.trainable_variables, plan.replicas)
    step = make_train_step(
        model,
        optimizer,
        plan,
        clip_norm=settings.clip_norm,
        skip_loss_above=settings.skip_loss_above,
        seed=settings.seed,
        all_reduce=all_reduce_over(plan.replicas),
        replica_id=gen_xla_ops.xla_replica_id,
    )
    batch = {
        "tokens": tf.TensorSpec([plan.per_replica, plan.context + 1], tf.int32),
        "index": tf.TensorSpec([plan.per_replica], tf.int64),
    }
    weights = sum(4 * variable.shape.num_elements() for variable in model.trainable_variables)
    reductions = (plan.replicas > 1) + (optimizer.slot_owners > 1)  # of the gradients; of the new weights
    return _hlo(step, batch), {"weights": weights, "slots": optimizer.slot_bytes(), "all_reduce": reductions * weights}


def lower_evaluation(
    model_config: GPT2Config, settings: TrainConfig, plan: BatchPlan, attention: str = "plain"
) -> tuple[bytes, dict[str, int]]:
    """Returns the serialized HLO of one evaluation step on one replica, and the bytes of its weights."""
    cli.import_tensorflow()
    import tensorflow as tf

    from pipeline.evaluation.evaluation_step import make_evaluation_step

    with unfilled_variables():
        model = _model(model_config, settings, attention)
    step = make_evaluation_step(model, all_reduce=all_reduce_over(plan.replicas))
    batch = {
        "tokens": tf.TensorSpec([plan.microbatch, plan.context + 1], tf.int32),
        "weights": tf.TensorSpec([plan.microbatch, plan.context], tf.float32),
    }
    weights = sum(4 * variable.shape.num_elements() for variable in model.trainable_variables)
    return _hlo(step, batch), {"weights": weights, "slots": 0, "all_reduce": 0}


def _model(config: GPT2Config, settings: TrainConfig, attention: str) -> Any:
    import models

    kernels = fused_kernels.attention(attention)
    return models.build(config, compute_dtype=settings.compute_dtype, attention=kernels)


def _hlo(step: Any, batch: dict[str, Any]) -> bytes:
    return canonical(_compiled(step, batch).experimental_get_compiler_ir(*batch.values())(stage="hlo_serialized"))


def _compiled(step: Any, batch: dict[str, Any]) -> Any:
    """Returns the tf.function to lower; its parameters are the batch's parts, then its variables."""
    import tensorflow as tf

    names = list(batch)
    return tf.function(lambda *parts: step(dict(zip(names, parts, strict=True))), jit_compile=True)


def canonical(serialised: bytes) -> bytes:
    """Returns the module in canonical form, so that equal programs have equal hashes.

    TensorFlow's output has maps in any order (hints to its own optimizer) and the paths of source files.
    """
    from tensorflow.compiler.xla.service import hlo_pb2

    module = hlo_pb2.HloModuleProto.FromString(serialised)
    module.ClearField("stack_frame_index")
    for computation in module.computations:
        for instruction in computation.instructions:
            instruction.ClearField("frontend_attributes")
            instruction.metadata.CopyFrom(type(instruction.metadata)(op_name=instruction.metadata.op_name))
    return module.SerializeToString(deterministic=True)
