"""A run's figures before it starts: reads no records, connects to nothing and imports neither TensorFlow nor Keras."""

import dataclasses
import re
import textwrap
from collections.abc import Mapping

from models.config import GPT2Config
from models.weight_specs import weight_specs
from pipeline.config.attention_path import AttentionPath
from pipeline.config.batch_plan import BatchPlan
from pipeline.config.train_config import ONE_EPOCH, TrainConfig
from pipeline.optimizers.config import OptimizerConfig
from pipeline.progress import counted

GPT2_VOCABULARY = 50_257
WIDTH = 23  # of the names


def arithmetic(
    settings: TrainConfig,
    model: GPT2Config,
    optimizer: OptimizerConfig,
    plan: BatchPlan,
    hosts: int,
    attention: AttentionPath,
) -> str:
    """Returns the batch arithmetic, parameters, FLOPs, slots and effective learning rates of a run as lines of text.

    A model without a vocabulary size gets GPT-2's instead of the data's; ``hosts`` are the replicas' machines.
    """
    vocabulary = model.vocabulary_size or GPT2_VOCABULARY
    sized = dataclasses.replace(model, vocabulary_size=vocabulary)
    origin = "" if model.vocabulary_size else " (GPT-2's; the data's manifest decides)"
    rows = {
        "parameters": f"{sized.parameters():,} with a vocabulary of {vocabulary:,}{origin}",
        "replicas": f"{plan.replicas:,} on {counted(hosts, 'host')}",
        "global batch": f"{plan.global_batch:,} sequences of {plan.context:,} tokens",
        "": f"= {counted(plan.replicas, 'replica')} × {plan.accumulation} accumulation × {plan.microbatch} microbatch",
        "tokens per step": f"{plan.tokens_per_step:,}",
        "steps": "one pass over the train part" if settings.steps == ONE_EPOCH else f"{settings.steps:,}",
        **({} if settings.steps == ONE_EPOCH else {"tokens in all": f"{settings.steps * plan.tokens_per_step:,}"}),
        "model FLOPs per step": f"{sized.flops_per_token(plan.context) * plan.tokens_per_step:.3e}",
        "attention": f"{attention.name}: {attention.reason}",
    }
    variables = weight_specs(sized)
    shapes = {name: variable.shape for name, variable in variables.items()}
    rows["optimizer slots"] = f"{optimizer.slot_bytes(shapes, plan.replicas) / 2**20:,.1f} MiB per replica"
    rates = {name: optimizer.effective_rate(spec.rms, spec.shape, name) for name, spec in variables.items()}
    return "\n".join(f"{name:<{WIDTH}} {value}" for name, value in rows.items()) + "\n" + effective_rates(rates)


def effective_rates(rates: Mapping[str, float]) -> str:
    """Returns the effective learning rate of each variable at the schedule's highest point, as lines of text.

    Variables with the same rate share a line; variables of several blocks share a name.
    """
    lines: dict[str, dict[str, int]] = {}
    for name, rate in rates.items():
        kinds, kind = lines.setdefault(f"{rate:.2e}", {}), re.sub(r"^block_\d+/", "", name)
        kinds[kind] = kinds.get(kind, 0) + 1
    if len(lines) == 1:
        return f"{'effective learning rate':<{WIDTH}} {next(iter(lines))} for every variable"
    text = "effective learning rate at the schedule's highest point"
    for shown, kinds in lines.items():
        names = ", ".join(kind if count == 1 else f"{kind} × {count}" for kind, count in kinds.items())
        text += "\n" + textwrap.fill(names, 100, initial_indent=f"  {shown:<17} ", subsequent_indent=" " * 20)
    return text
