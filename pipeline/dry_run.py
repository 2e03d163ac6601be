"""What a run would be, in figures: nothing is read, connected or imported that a laptop would wait for."""

import dataclasses
from typing import Any

from pipeline.training.batch import BatchPlan
from pipeline.training.settings import TrainConfig

GPT2_VOCABULARY = 50_257


def arithmetic(settings: TrainConfig, model: Any, plan: BatchPlan, hosts: int) -> str:
    """Returns the batch arithmetic, parameters and FLOPs of a run as lines of text.

    Args:
      model: the model's configuration; without a vocabulary size, GPT-2's stands in for the data's.
      hosts: machines that the replicas are on.
    """
    vocabulary = model.vocabulary_size or GPT2_VOCABULARY
    sized = dataclasses.replace(model, vocabulary_size=vocabulary)
    origin = "" if model.vocabulary_size else " (GPT-2's; the data's manifest decides)"
    rows = {
        "parameters": f"{sized.parameters():,} with a vocabulary of {vocabulary:,}{origin}",
        "replicas": f"{plan.replicas:,} on {hosts:,} host{'s' if hosts > 1 else ''}",
        "global batch": f"{plan.global_batch:,} sequences of {plan.context:,} tokens",
        "": f"= {plan.replicas} replicas × {plan.accumulation} accumulation × {plan.microbatch} microbatch",
        "tokens a step": f"{plan.tokens_per_step:,}",
        "steps": f"{settings.steps:,}",
        "tokens in all": f"{settings.steps * plan.tokens_per_step:,}",
        "model FLOPs a step": f"{sized.flops_per_token(plan.context) * plan.tokens_per_step:.3e}",
    }
    return "\n".join(f"{name:<19} {value}" for name, value in rows.items())
