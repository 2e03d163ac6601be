"""Generation: our compiled loop over a key/value cache against keras-hub's `generate`, on one small GPT-2.

The 30M model of step.py with random weights, 8 prompts of 64 tokens, 128 new tokens each, float32, greedy, no stop.
Both are compiled by XLA beforehand; they take turns, and the best turn of each counts.
"""

import time
from collections.abc import Callable

import numpy as np

import models
from models.decoding import generate
from models.sampling import Sampling
from tools.benchmarks.step import CONFIG

BATCH, PROMPT, NEW, TURNS = 8, 64, 128, 4
NO_STOP = CONFIG.known_vocabulary - 1  # never the likeliest token here, which run() checks


def run() -> dict[str, float]:
    """Measures, prints a table and returns tokens a second and the ratio."""
    prompts = np.random.default_rng(0).integers(0, NO_STOP, (BATCH, PROMPT)).astype(np.int32)
    contenders: dict[str, Callable[[], int]] = {"ours": _ours(prompts), "keras_hub": _keras_hub(prompts)}
    for name, contender in contenders.items():
        made = contender()  # compiles
        if made != BATCH * NEW:
            raise RuntimeError(f"{name} made {made} tokens in place of {BATCH * NEW}: the comparison would not be fair")
    seconds = dict.fromkeys(contenders, float("inf"))
    for _ in range(TURNS):
        for name, contender in contenders.items():
            start = time.perf_counter()
            contender()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    speed = {name: BATCH * NEW / value for name, value in seconds.items()}
    for name, value in speed.items():
        print(f"  {name:<16} {value:7.0f} tokens/s")
    ratio = speed["ours"] / speed["keras_hub"]
    print(f"  {'ratio':<16} {ratio:7.2f}")
    return {f"{name}_tokens_per_second": value for name, value in speed.items()} | {"ratio_to_keras_hub": ratio}


def _ours(prompts: np.ndarray) -> Callable[[], int]:
    model, rows = models.build(CONFIG), prompts.tolist()
    greedy = Sampling(temperature=0)

    def contender() -> int:
        made = generate(model, rows, max_new_tokens=NEW, end_of_text=NO_STOP, sampling=greedy)
        return sum(map(len, made))

    return contender


def _keras_hub(prompts: np.ndarray) -> Callable[[], int]:
    from keras_hub.models import GPT2CausalLM

    from tools.benchmarks.step import keras_hub_backbone

    model = GPT2CausalLM(backbone=keras_hub_backbone(), preprocessor=None)
    model.compile(sampler="greedy", jit_compile=True)
    room = np.zeros((BATCH, NEW), np.int32)
    inputs = {
        "token_ids": np.concatenate([prompts, room], 1),
        "padding_mask": np.concatenate([np.ones_like(prompts), room], 1),
    }

    def contender() -> int:
        made = model.generate(inputs, stop_token_ids=None)
        return int(np.sum(made["padding_mask"])) - prompts.size

    return contender
