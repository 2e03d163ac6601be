"""Run directories, and a sweep of them, with records that are made up."""

import json
import math
import pathlib

IDENTITY = {
    "train": {"steps": 10},
    "model": {"context": 64},
    "data": {"corpus": "c", "tokenizer": "t"},
    "shard": {"packing": "contiguous", "shards": 8},
}
WHOLE_IDENTITY = IDENTITY | {
    "train": {"model": "gpt2", "steps": 60, "global_batch": 8, "schedule": "cosine", "warmup_steps": 5},
    "model": {"kind": "GPT2Config", "layers": 2, "heads": 2, "width": 32, "context": 64, "vocabulary_size": 300},
    "optimizer": {"kind": "AdamWConfig", "learning_rate": 1e-3},
}


def write(directory, steps, *, incidents=(), samples="", identity=IDENTITY, **changes):
    """Writes a run; ``changes`` are functions of the step, by the name of a figure, and ``more`` returns several."""
    directory.mkdir(parents=True)
    (directory / "run.json").write_text(json.dumps(identity))
    with (directory / "metrics.jsonl").open("w") as file:
        for step in steps:
            record = {"step": step, "tokens": 64 * step, "loss": 2 + 5 / step, "grad_norm": 1.0, "mfu": 0.3}
            record |= {"learning_rate": 1e-3, "tokens_per_s": 1e4, "seconds.step": step, "seconds.compile": 2.0}
            changed = {key: value(step) for key, value in changes.items()}
            file.write(json.dumps(record | changed.pop("more", {}) | changed) + "\n")
    if incidents:
        (directory / "incidents.jsonl").write_text("".join(json.dumps(incident) + "\n" for incident in incidents))
    (directory / "samples.txt").write_text(samples)
    return directory


def write_resumed(directory, *, steps=60, restarts=(20, 41), skipped=(10, 50)):
    """Writes a run as pipeline.train leaves it, not done, with restarts, skipped updates and evaluations."""

    def more(step):
        figures = {"time": 1.79e9 + step, "seconds.restart": 9.0 * (1 + sum(step > restart for restart in restarts))}
        return figures | ({"validation.nats_per_token": 2.5 + 5 / step} if step % 15 == 0 else {})

    incidents = [{"step": step, "reason": "loss or gradient not finite", "loss": "nan"} for step in skipped]
    made = {"loss": lambda step: math.nan if step in skipped else 2 + 5 / step, "more": more}
    write(directory, range(1, steps + 1), incidents=incidents, identity=WHOLE_IDENTITY, **made)
    (directory / "began.txt").write_text("1790000000.0\n")
    start = {"command": "python -m pipeline.train --gin_file=gpt2.gin", "code": "c0ffee-dirty", "corpus": "wikitext"}
    start |= {"devices": "v3-8: 8 TPU cores, 1 host", "data": "gs://bucket/wikitext", "train_tokens": 1000}
    lines = [json.dumps(start | {"time": 1.79e9 + step, "step": step}) + "\n" for step in (0, *restarts)]
    (directory / "starts.jsonl").write_text("".join(lines))
    return directory


def write_sweep(directory: pathlib.Path):
    """Writes a sweep of two models, three learning rates and two seeds, one of whose cells failed."""
    (directory / "ledger").mkdir(parents=True)
    cells = [(model, rate, seed) for model in ("gpt2", "algpt2") for rate in (1e-4, 1e-3, 1e-2) for seed in (0, 1)]
    for number, (model, rate, seed) in enumerate(cells):
        key, loss = f"{number:012x}", 3 + abs(math.log10(rate) + 3) / 4 + (model == "algpt2") / 5 + seed / 50
        overrides = {"model": model, "AdamW.learning_rate": rate, "train.seed": seed}
        figures = {"validation": loss, "perplexity": math.exp(loss), "train_loss": loss, "steps": 30, "tokens": 1920}
        entry = {"overrides": overrides, "state": "done", "attempt": 1, "result": figures}
        if number == 5:
            entry |= {"state": "failed", "reason": "too many updates were skipped", "result": {}}
        (directory / "ledger" / f"{key}.json").write_text(json.dumps(entry))
        if number != 5:
            write(
                directory / "cells" / key,
                range(1, 31),
                identity=WHOLE_IDENTITY,
                loss=lambda step, at=loss: at + 5 / step,
            )
    return directory
