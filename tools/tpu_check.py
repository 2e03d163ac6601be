"""Checks that the TPU has a kernel for every op of the step, with TensorFlow's TPU build, without a TPU.

    python -m tools.tpu_check            # make tpu-check

TensorFlow's TPU wheel lowers a function for the platform "TPU" on any machine, and rejects ops for which the TPU has no
kernel ("No registered 'AsString' OpKernel for XLA_TPU_JIT"). It does not check the attention kernels; that
environment's jax and libtpu compile them for each generation. The wheel cannot share an environment with the others,
so this command builds another under build/, a gigabyte, on its first run. Weights are passed as arguments: TensorFlow
rejects functions that hold variables.
"""

import os
import pathlib
import subprocess
import sys
import venv
from typing import Any

from models.config import ALGPT2Config, GPT2Config
from pipeline import cli
from pipeline.devices import fused_kernels, own_process
from pipeline.devices.wheels import LAST_LIBTPU_FOR
from pipeline.errors import WorkFailedError
from pipeline.optimizers.config import AdafactorConfig, AdamWConfig, MuonConfig, OptimizerConfig, SGDConfig
from pipeline.preflight.libtpu_process import ENVIRONMENT as ENVIRONMENT_OF_LIBTPU

ROOT = pathlib.Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / "build" / "tpu-environment"
# The part of requirements-tpu.txt that lowering a step needs: no data, bucket or report.
NEEDED = ("tensorflow-tpu", "libtpu", "jax", "jaxlib", "tensorboard", "keras", "numpy", "gin-config", "absl-py")
PRETENDED = ENVIRONMENT_OF_LIBTPU | {"TPU_ACCELERATOR_TYPE": "v3-8"}  # poses as a host of a v3-8
TOPOLOGIES = ("v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2")  # generations with attention kernels
REPLICAS, ROWS, CONTEXT = 8, 4, 256
SIZE: dict[str, Any] = {"layers": 2, "heads": 2, "width": 256, "context": CONTEXT, "vocabulary_size": 1000}


def main() -> int:
    """Starts the check in the TPU environment; returns 1 if an op is rejected."""
    python = environment()
    done = subprocess.run(
        [str(python), "-m", "tools.tpu_check", "inside"], cwd=ROOT, env={**os.environ, **PRETENDED}, check=False
    )
    return 1 if done.returncode else 0


def environment() -> pathlib.Path:
    """Builds the environment if it is absent or older than its requirements; returns its Python."""
    stamp, python = ENVIRONMENT / ".complete", ENVIRONMENT / "bin" / "python"
    requirements, constraints = ROOT / "requirements-tpu.txt", ROOT / "constraints.txt"
    changed = max(file.stat().st_mtime for file in (requirements, constraints))
    if not stamp.exists() or stamp.stat().st_mtime < changed:
        print(f"building {ENVIRONMENT.relative_to(ROOT)} from {requirements.name}")
        venv.create(ENVIRONMENT, with_pip=True)
        pins = [line for line in requirements.read_text().splitlines() if line.split("==")[0] in NEEDED]
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
        subprocess.run([*install, "-c", str(constraints), *pins], check=True)
        stamp.touch()
    return python


def inside() -> int:
    """Runs in the TPU environment: lowers every variant of the step and prints one line each."""
    import tensorflow as tf

    from tools import tpu_check  # not as __main__: another process looks up its function by the module's name

    assert LAST_LIBTPU_FOR, "this import shows that the wheels did not abort"
    print(f"tensorflow {tf.__version__} with the TPU's kernels")
    refused = lower(lambda x: tf.strings.length(tf.strings.as_string(x)), [tf.TensorSpec([4], tf.float32)])
    verdict = "refused" if refused else "ACCEPTED: this check proves nothing"
    print(f"control           an op without a kernel is {verdict}")
    failures = 0 if refused else 1
    optimizers = (
        AdafactorConfig(learning_rate=1e-3, beta1=0.9, weight_decay=0.1),
        AdamWConfig(learning_rate=1e-3, weight_decay=0.1),
        AdamWConfig(learning_rate=1e-3, slots="sharded"),
        MuonConfig(learning_rate=1e-2, adamw_learning_rate=1e-3, weight_decay=0.1),
        MuonConfig(learning_rate=1e-2, adamw_learning_rate=1e-3, slots="sharded"),
        SGDConfig(learning_rate=1e-3),
    )
    for kind in (GPT2Config, ALGPT2Config):
        for variant in ({"remat": "none"}, {"remat": "full"}, {"remat": "attention", "dropout": 0.1}):
            for accumulation in (1, 2):
                for optimizer in optimizers if variant["remat"] == "none" else optimizers[:1]:
                    slots = " sharded" if optimizer.splits_slots(REPLICAS) else ""
                    name = f"{type(optimizer).__name__[:-6]}{slots} {variant} accumulation {accumulation}"
                    problem = check(kind(**SIZE, **variant), optimizer, accumulation)
                    failures += _say(f"{kind.__name__[:-6]} {name}", problem)
        problem = check(kind(**SIZE | {"heads": 4}), optimizers[0], accumulation=1, attention="fused")
        failures += _say(f"{kind.__name__[:-6]} fused attention", problem)
        failures += _say(f"{kind.__name__[:-6]} evaluation", check_evaluation(kind(**SIZE)))
    for topology in TOPOLOGIES:
        try:
            own_process.call("the TPU compiler", tpu_check.compile_kernels, topology)
            problem = None
        except WorkFailedError as error:
            problem = str(error)
        failures += _say(f"attention kernels compiled for {topology}", problem)
    return 1 if failures else 0


def compile_kernels(topology: str) -> None:
    """Compiles both attention kernels with this environment's jax and libtpu; needs a separate process."""
    os.environ.update(ENVIRONMENT_OF_LIBTPU, TPU_ACCELERATOR_TYPE="v4-8")
    import jax
    from jax.experimental import topologies

    from models import attention_kernels as kernels  # before jax: keeps jax off a TPU

    device = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices[0]
    where = jax.sharding.SingleDeviceSharding(device)
    array = jax.ShapeDtypeStruct((2, 64, 1024), jax.numpy.bfloat16, sharding=where)
    log = jax.ShapeDtypeStruct((2, 1, 1024), jax.numpy.float32, sharding=where)
    jax.jit(kernels.forward).lower(array, array, array).compile()
    jax.jit(kernels.backward).lower(array, array, array, array, log, array).compile()


def _say(name: str, problem: str | None) -> bool:
    print(f"{'REFUSED' if problem else 'ok':<17} {name}{f': {problem}' if problem else ''}", flush=True)
    return bool(problem)


def check_evaluation(model_config: GPT2Config) -> str | None:
    """Lowers the evaluation step with weights as arguments; returns what the TPU rejects, or None."""
    import keras
    import tensorflow as tf

    import models
    from pipeline.evaluation.evaluation_step import make_evaluation_step
    from pipeline.preflight.lowering import all_reduce_over

    model = models.build(model_config, compute_dtype="bfloat16")
    score = make_evaluation_step(model, all_reduce=all_reduce_over(REPLICAS))
    variables = model.trainable_variables

    def pure(tokens: tf.Tensor, weights: tf.Tensor, *values: tf.Tensor) -> Any:
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            return score({"tokens": tokens, "weights": weights})

    specs = [tf.TensorSpec([ROWS, CONTEXT + 1], tf.int32), tf.TensorSpec([ROWS, CONTEXT], tf.float32)]
    return lower(pure, [*specs, *(tf.TensorSpec(variable.shape, variable.dtype) for variable in variables)])


def check(
    model_config: GPT2Config, optimizer_config: OptimizerConfig, accumulation: int, attention: str = "plain"
) -> str | None:
    """Lowers one optimizer step with weights and slots as arguments; returns what the TPU rejects, or None."""
    import keras
    import tensorflow as tf
    from tensorflow.compiler.tf2xla.ops import gen_xla_ops

    import models
    from pipeline.config import batch_plan
    from pipeline.optimizers.build import build
    from pipeline.optimizers.schedules import Schedule
    from pipeline.preflight.lowering import all_reduce_over
    from pipeline.training import step

    optimizer = build(optimizer_config, Schedule(kind="cosine", steps=100, warmup_steps=10))
    model = models.build(model_config, compute_dtype="bfloat16", attention=fused_kernels.attention(attention))
    optimizer.build(model.trainable_variables, REPLICAS)
    variables = [*model.trainable_variables, *optimizer.variables]
    rows = ROWS * accumulation
    plan = batch_plan.plan(global_batch=rows * REPLICAS, replicas=REPLICAS, microbatch=ROWS, context=CONTEXT)
    train = step.make_train_step(
        model,
        optimizer,
        plan,
        clip_norm=1.0,
        all_reduce=all_reduce_over(REPLICAS),
        replica_id=gen_xla_ops.xla_replica_id,
    )

    def pure(tokens: tf.Tensor, index: tf.Tensor, *values: tf.Tensor) -> Any:
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))) as scope:
            metrics = train({"tokens": tokens, "index": index})
            return metrics, [scope.get_current_value(variable) for variable in variables]

    specs = [tf.TensorSpec([rows, CONTEXT + 1], tf.int32), tf.TensorSpec([rows], tf.int64)]
    specs += [tf.TensorSpec(variable.shape, variable.dtype) for variable in variables]
    conditional, tf.cond = tf.cond, lambda _, update, otherwise: update()  # both branches of the skip are lowered alike
    try:
        return lower(pure, specs)
    finally:
        tf.cond = conditional


def lower(function: Any, specs: list[Any]) -> str | None:
    """Lowers a function for the TPU; returns the first line of the rejection, or None."""
    import tensorflow as tf

    try:
        lowered = tf.function(function, jit_compile=True, autograph=False).experimental_get_compiler_ir(*specs)
        lowered(stage="hlo", platform_name="TPU")
    except Exception as error:  # TensorFlow raises a different class at each stage of lowering
        lines = [line for line in str(error).strip().splitlines() if line.strip()] or [""]
        return f"{type(error).__name__}: {lines[-1 if isinstance(error, TypeError) else 0].strip()[:300]}"
    return None


if __name__ == "__main__":
    if sys.argv[1:] == ["inside"]:
        sys.exit(inside())
    cli.run(main)
