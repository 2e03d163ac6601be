"""Training speed: our compiled step, keras-hub's `fit` and, where torch is, Hugging Face's model under torch.compile.

All train one model, a 30M GPT-2 (6 layers, width 384, vocabulary 50,257), on 8 sequences of 256 tokens, in float32 with
AdamW, on this machine's devices. Contenders take turns with a float32 matrix multiply, whose best turn is the peak.
Each one's best turn counts: other work on the machine can only slow a turn down. FLOPs are the model's, 6 per weight
and token plus the full attention square, for all contenders alike.
"""

import importlib.util
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

import models
from pipeline.config.batch_plan import plan
from pipeline.devices import matmul_peak
from pipeline.errors import pip_install
from pipeline.optimizers.build import build
from pipeline.optimizers.config import AdamWConfig
from pipeline.optimizers.schedules import Schedule
from pipeline.training.step import make_train_step

CONFIG = models.GPT2Config(layers=6, heads=6, width=384, context=256, vocabulary_size=50_257)
BATCH, TURNS, LEARNING_RATE = 8, 4, 1e-4
Step = Callable[[], float]


def run() -> dict[str, float]:
    """Measures, prints a table and returns GF/s, the share of the peak and the ratios."""
    tokens = random_tokens()
    contenders: dict[str, Step] = {"ours": ours(tokens), "keras_hub": _keras_hub(tokens)}
    if all(importlib.util.find_spec(name) for name in ("torch", "transformers")):
        contenders["torch_compile"] = _torch(tokens)
    else:
        print(f"  no comparison with torch.compile: {pip_install('-r requirements-torch.txt')}")
    seconds, peak = best_seconds_and_peak(contenders, TURNS)
    speed = {name: flops() / value for name, value in seconds.items()}
    for name, value in [("matrix multiply", peak), *speed.items()]:
        print(f"  {name:<16} {value / 1e9:7.1f} GF/s {100 * value / peak:5.0f} % of the peak")
    figures = {"mfu": speed["ours"] / peak, "matmul_peak_gflops": peak / 1e9}
    figures |= {f"{name}_gflops": value / 1e9 for name, value in speed.items()}
    return figures | {f"ratio_to_{name}": speed["ours"] / value for name, value in speed.items() if name != "ours"}


def best_seconds(contenders: Mapping[str, Callable[[], object]], turns: int) -> dict[str, float]:
    """Calls each contender once, to compile it, and then in turns; returns each one's best seconds."""
    for contender in contenders.values():
        contender()
    best = dict.fromkeys(contenders, float("inf"))
    for _ in range(turns):
        for name, contender in contenders.items():
            start = time.perf_counter()
            contender()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def best_seconds_and_peak(contenders: dict[str, Step], turns: int) -> tuple[dict[str, float], float]:
    """Returns each contender's best seconds, and the FLOP/s of the best matrix multiply between their turns."""
    peaks: list[float] = []
    multiply = {"matrix multiply": lambda: peaks.append(matmul_peak.measure())}
    seconds = best_seconds({**contenders, **multiply}, turns)
    return {name: seconds[name] for name in contenders}, max(peaks)


def random_tokens(rows: int = BATCH) -> np.ndarray:
    """Returns a batch, int32 [rows, context + 1]."""
    return np.random.default_rng(0).integers(0, CONFIG.known_vocabulary, (rows, CONFIG.context + 1)).astype(np.int32)


def flops() -> float:
    """Returns the model's FLOPs for one step on the batch."""
    return CONFIG.flops_per_token() * BATCH * CONFIG.context


def ours(tokens: np.ndarray, *, accumulation: int = 1) -> Step:
    """Returns our compiled step on this batch, split into ``accumulation`` microbatches."""
    compiled, batch = compiled_step(CONFIG, tokens, accumulation=accumulation)
    return lambda: float(compiled(batch)["loss"])


def compiled_step(
    config: models.GPT2Config,
    tokens: np.ndarray,
    *,
    accumulation: int = 1,
    learning_rate: float = LEARNING_RATE,
    jit_compile: bool = True,
) -> tuple[Any, dict[str, tf.Tensor]]:
    """Returns the training step, with AdamW on one device, and its batch of ``tokens``, int32 [B, context + 1]."""
    rows = len(tokens)
    model = models.build(config)
    optimizer = build(AdamWConfig(learning_rate=learning_rate), Schedule(kind="constant", steps=1000, warmup_steps=0))
    optimizer.build(model.trainable_variables)
    batch_plan = plan(global_batch=rows, replicas=1, microbatch=rows // accumulation, context=config.context)
    step = make_train_step(model, optimizer, batch_plan, clip_norm=1.0, all_reduce=lambda tensors: tensors)
    batch = {"tokens": tf.constant(tokens), "index": tf.range(rows, dtype=tf.int64)}
    return tf.function(step, jit_compile=jit_compile), batch


def keras_hub_backbone(config: models.GPT2Config) -> Any:
    """Returns keras-hub's GPT-2 of the same size, with random weights."""
    from keras_hub.models import GPT2Backbone

    return GPT2Backbone(
        vocabulary_size=config.vocabulary_size,
        num_layers=config.layers,
        num_heads=config.heads,
        hidden_dim=config.width,
        intermediate_dim=4 * config.width,
        max_sequence_length=config.context,
        dropout=0.0,
    )


def _keras_hub(tokens: np.ndarray) -> Step:
    import keras

    backbone = keras_hub_backbone(CONFIG)
    logits = backbone.token_embedding(backbone.output, reverse=True)
    model = keras.Model(backbone.inputs, logits)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(LEARNING_RATE, clipnorm=None), loss, jit_compile=True)
    inputs = {"token_ids": tokens[:, :-1], "padding_mask": np.ones_like(tokens[:, :-1])}
    data = tf.data.Dataset.from_tensors((inputs, tokens[:, 1:])).cache().repeat()
    return lambda: model.fit(data, epochs=1, steps_per_epoch=1, verbose=0).history["loss"][0]


def _torch(tokens: np.ndarray) -> Step:
    import torch  # type: ignore[import-not-found,unused-ignore]
    from transformers import GPT2Config, GPT2LMHeadModel  # type: ignore[import-not-found,unused-ignore]

    settings = GPT2Config(
        vocab_size=CONFIG.known_vocabulary,
        n_positions=CONFIG.context,
        n_embd=CONFIG.width,
        n_layer=CONFIG.layers,
        n_head=CONFIG.heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    model = GPT2LMHeadModel(settings)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    compiled = torch.compile(model)
    inputs, labels = (torch.from_numpy(part.astype(np.int64)) for part in (tokens[:, :-1], tokens[:, 1:]))

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        logits = compiled(inputs).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return float(loss)

    return step
