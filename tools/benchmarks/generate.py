"""Generation: our compiled loop over a key/value cache against keras-hub's `generate`, on one small GPT-2.

Uses step.py's 30M model with random weights and room for 1,024 tokens, prompts of 64 tokens, float32, greedy decoding,
no stop. XLA compiles both beforehand; they take turns, and each one's best turn counts. The unnamed ratio is for 32
prompts. With a single prompt, each token reads all weights once, at memory speed in both.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

import models
from models.decoding import generate
from models.sampling import Sampling
from tools.benchmarks import step

CONFIG = dataclasses.replace(step.CONFIG, context=1024)
PROMPT, TURNS = 64, 3
SETTINGS = {  # prompts, new tokens per prompt
    "one_prompt": (1, 128),
    "8_prompts": (8, 128),
    "8_prompts_long": (8, 512),
    "32_prompts": (32, 128),
}
NO_STOP = CONFIG.known_vocabulary - 1  # never the likeliest token here; run() checks this


def run() -> dict[str, float]:
    """Measures, prints a table and returns tokens per second and ratios by setting."""
    figures: dict[str, float] = {}
    for setting, (batch, new) in SETTINGS.items():
        prompts = np.random.default_rng(0).integers(0, NO_STOP, (batch, PROMPT)).astype(np.int32)
        ours, theirs = speeds(prompts, new)
        print(f"  {setting:<16} {ours:7.0f} tokens/s, keras-hub {theirs:5.0f}: {ours / theirs:.2f} times", flush=True)
        figures |= {f"{setting}_tokens_per_second": ours, f"{setting}_keras_hub_tokens_per_second": theirs}
        figures[f"{setting}_ratio_to_keras_hub"] = ours / theirs
    return figures | {"ratio_to_keras_hub": figures["32_prompts_ratio_to_keras_hub"]}


def speeds(prompts: np.ndarray, new: int) -> tuple[float, float]:
    """Returns tokens per second, ours and keras-hub's."""
    contenders = {"ours": _ours(prompts, new), "keras-hub": _keras_hub(prompts, new)}
    for contender in contenders.values():
        if (count := contender()) != len(prompts) * new:
            raise RuntimeError(f"{count} tokens were generated, expected {len(prompts) * new}: not comparable")
    seconds = step.best_seconds(contenders, TURNS)
    return len(prompts) * new / seconds["ours"], len(prompts) * new / seconds["keras-hub"]


def _ours(prompts: np.ndarray, new: int) -> Callable[[], int]:
    model, rows = models.build(CONFIG), prompts.tolist()
    greedy = Sampling(temperature=0)

    def contender() -> int:
        continuations = generate(model, rows, max_new_tokens=new, end_of_text=NO_STOP, sampling=greedy)
        return sum(map(len, continuations))

    return contender


def _keras_hub(prompts: np.ndarray, new: int) -> Callable[[], int]:
    from keras_hub.models import GPT2CausalLM

    model = GPT2CausalLM(backbone=step.keras_hub_backbone(CONFIG), preprocessor=None)
    model.compile(sampler="greedy", jit_compile=True)
    room = np.zeros((len(prompts), new), np.int32)
    inputs = {
        "token_ids": np.concatenate([prompts, room], 1),
        "padding_mask": np.concatenate([np.ones_like(prompts), room], 1),
    }

    def contender() -> int:
        outputs = model.generate(inputs, stop_token_ids=None)
        return int(np.sum(outputs["padding_mask"])) - prompts.size

    return contender
