r"""Shows how the size of activations changes with a model's width, at the start and after some updates.

    python -m tools.coordinate_check --gin_file=quickstart.gin \
        --data=data/quickstart [--widths=128,256,512] [--steps=4]

Trains the gin files' model at each width, with the heads' width unchanged, for a few updates at the peak learning rate,
on the same batches. A learning rate transfers from a narrow model to a wide one if no part's change grows with the
width or vanishes (Yang et al., "Tensor Programs V", 2022, https://arxiv.org/abs/2203.03466, appendix D.1). An exponent
p means that the size is proportional to width ** p; above 0.25, the part limits the rate of wider models.
"""

# Shapes: B batch, T context, D width.

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from pipeline import cli
from pipeline.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from models.config import GPT2Config
    from pipeline.config.train_config import TrainConfig
    from pipeline.data.format.manifest import Manifest
    from pipeline.optimizers.config import OptimizerConfig

FLAGS = flags.FLAGS
LIMIT = 0.25  # exponents of a part that neither grows nor vanishes
Sizes = dict[str, float]  # root mean square by part


@dataclasses.dataclass(frozen=True)
class Run:
    """The settings of a run that matter here, from the gin files."""

    settings: "TrainConfig"
    model: "GPT2Config"
    optimizer: "OptimizerConfig"

    def at_width(self, width: int) -> "Run":
        """Returns the run with a model of this width and unchanged head width."""
        model = dataclasses.replace(self.model, width=width, heads=width // self.model.head_width)
        return dataclasses.replace(self, model=model)


def main() -> None:
    """Prints the table."""
    cli.required("data", "a directory of shards, such as data/quickstart")
    from pipeline.data.format import manifest

    run = _run()
    widths = _widths(run.model)
    data = manifest.load(FLAGS.data)
    model = dataclasses.replace(run.model, vocabulary_size=data.tokenizer.vocabulary_size)
    run = dataclasses.replace(run, model=model)
    batches = _batches(run, data)
    print(table({width: measure(run.at_width(width), batches) for width in widths}))


def _run() -> Run:
    from pipeline.config import gin_reader
    from pipeline.config.train_config import TrainConfig

    configuration = gin_reader.load(FLAGS.gin_file, FLAGS.gin_param)
    settings = configuration.get(TrainConfig)
    model = gin_reader.chosen(configuration, gin_reader.MODELS, settings.model, "train.model")
    optimizer = gin_reader.chosen(configuration, gin_reader.OPTIMIZERS, settings.optimizer, "train.optimizer")
    gin_reader.reject_unused_overrides(configuration, TrainConfig, type(model), type(optimizer))
    return Run(settings, model, optimizer)


def measure(run: Run, batches: "Sequence[np.ndarray]") -> tuple[Sizes, Sizes]:
    """Trains on all batches but the first, and measures the first before and after.

    Args:
        run: its model, optimizer and clipping are used.
        batches: int32 [B, T + 1] each.

    Returns:
        The root mean square of each part's activations before the first update, and of their change by the updates.
    """
    import tensorflow as tf

    import models
    from pipeline.config.batch_plan import plan
    from pipeline.optimizers.build import build
    from pipeline.optimizers.schedules import Schedule
    from pipeline.training.step import make_train_step

    rows = len(batches[0])
    model = models.build(run.model, seed=run.settings.seed)
    optimizer = build(run.optimizer, Schedule(kind="constant", steps=len(batches)))
    optimizer.build(model.trainable_variables)
    step = make_train_step(
        model,
        optimizer,
        plan(global_batch=rows, replicas=1, microbatch=rows, context=run.model.context),
        clip_norm=run.settings.clip_norm,
        all_reduce=lambda tensors: tensors,
    )
    compiled = tf.function(step, jit_compile=True)
    look = tf.function(lambda tokens: activations(model, tokens), jit_compile=True)
    probe = tf.constant(batches[0][:, :-1])
    before = look(probe)
    for number, tokens in enumerate(batches[1:]):
        first = number * rows
        compiled({"tokens": tf.constant(tokens), "index": tf.range(first, first + rows, dtype=tf.int64)})
    after = look(probe)
    change = {part: after[part] - before[part] for part in before}
    return _sizes(before), _sizes(change)


def activations(model: Any, tokens: Any) -> dict[str, Any]:
    """Returns what each part of a GPT-2 or ALGPT2 adds to the residual stream, and its outputs.

    Args:
        model: from ``models.build``.
        tokens: int32 [B, T].

    Returns:
        float32 tensors: the embedding and each branch [B, T, D], the features [B, T, E] and the logits [B, T, V].
    """
    import tensorflow as tf

    from models.block import attention_half, mlp_half

    x = model.embed(tokens, tf.range(tokens.shape[1]))
    parts = {"embedding": x}
    for layer in range(model.config.layers):
        weights = model.blocks[layer % len(model.blocks)].tensors()
        middle, _ = attention_half(x, weights, model.config, None, layer)
        y, _ = mlp_half(middle, weights, model.config, None, layer)
        parts |= {f"attention {layer + 1}": middle - x, f"MLP {layer + 1}": y - middle}
        x = y
    parts["features"] = model.finish(x)
    parts["logits"] = model.logits(parts["features"])
    return {part: tf.cast(tensor, tf.float32) for part, tensor in parts.items()}


def exponent(sizes: Mapping[int, float]) -> float:
    """Returns p of the best fit size = c · width ** p; NaN if a size is 0."""
    if min(sizes.values()) <= 0:
        return math.nan
    x, y = [math.log(width) for width in sizes], [math.log(size) for size in sizes.values()]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum((a - mean_x) ** 2 for a in x)


def table(measured: Mapping[int, tuple[Sizes, Sizes]]) -> str:
    """Returns initial sizes and sizes of the change, a column per width, with exponents and outliers."""
    lines, growing = [], []
    for moment, title in enumerate(("at the start", f"change after {FLAGS.steps} updates")):
        lines += [f"{title:<26}" + "".join(f"{width:>10}" for width in measured) + "  exponent"]
        for part in next(iter(measured.values()))[moment]:
            sizes = {width: pair[moment][part] for width, pair in measured.items()}
            power = exponent(sizes)
            lines.append(f"  {part:<24}" + "".join(f"{size:>10.3g}" for size in sizes.values()) + f"{power:>+10.2f}")
            if moment and abs(power) > LIMIT:
                growing.append(f"{part} ({power:+.2f})")
        lines.append("")
    verdict = f"with the width change: {', '.join(growing)}" if growing else "no part's change grows or vanishes"
    return "\n".join([*lines, verdict])


def _sizes(parts: Mapping[str, Any]) -> Sizes:
    return {part: float((tensor.numpy().astype("float64") ** 2).mean() ** 0.5) for part, tensor in parts.items()}


def _widths(model: "GPT2Config") -> list[int]:
    head, widths = model.head_width, []
    for text in FLAGS.widths:
        if not text.isdecimal() or int(text) == 0 or int(text) % head:
            near = max(head, head * round(int(text) / head)) if text.isdecimal() else head
            raise UserError(f"--widths={text} is not a multiple of the heads' width, {head} (did you mean {near}?)")
        widths.append(int(text))
    if len(set(widths)) < 2:
        raise UserError(f"--widths={','.join(FLAGS.widths)}: expected two widths or more, such as 128,256,512")
    return widths


def _batches(run: Run, data: "Manifest") -> "list[np.ndarray]":
    """Returns one batch to measure and one for each update, int32 [B, T + 1], of microbatch size."""
    from pipeline.data.reading import record_order

    record_order.check_context(data.record.context, run.model.context)
    cli.import_tensorflow()
    from pipeline.data.reading.datasets import train_dataset

    dataset = train_dataset(
        FLAGS.data,
        data,
        seed=run.settings.seed,
        global_batch=run.settings.microbatch,
        context=run.model.context,
        start_step=0,
        replicas=1,
    )
    return [batch["tokens"].numpy() for batch in dataset.take(FLAGS.steps + 1)]


def define_flags() -> None:
    """Defines the flags."""
    cli.define_gin_flags()
    cli.define_path("data", None, "A directory of shards.")
    flags.DEFINE_list("widths", ["128", "256", "512"], "Widths, comma-separated.")
    flags.DEFINE_integer("steps", 4, "Updates.", lower_bound=1)


if __name__ == "__main__":
    cli.run(main, define_flags)
