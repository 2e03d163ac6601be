"""The head of a report: what each run is, where it ran, how far it got and how well."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

from models.config import from_description
from pipeline.progress import counted, duration
from pipeline.report.read import Run
from pipeline.report.tables import table, utc


def head(runs: Sequence[Run]) -> str:
    """Returns a table with a row per fact and a column per run; omits facts that no run knows."""
    columns = [facts(run) for run in runs]
    names = [name for name in columns[0] if any(column[name] for column in columns)]
    rows = [[name, *(column[name] or "-" for column in columns)] for name in names]
    return table(["", *(run.name for run in runs)] if len(runs) > 1 else [], rows, "facts")


def facts(run: Run) -> dict[str, str]:
    """Returns a run's facts by name; "" is unknown."""
    return {
        "state": _state(run),
        "best validation": _best(run),
        "model": _model(run),
        "parameters": _parameters(run),
        "optimizer": _optimizer(run),
        "data set": _data(run),
        "batch": _batch(run),
        "devices": _latest(run, "devices"),
        "speed": _speed(run),
        "started": "" if run.began is None else utc(run.began),
        "duration": _duration(run),
        "command": _latest(run, "command"),
        "commit": _latest(run, "code"),
    }


def _state(run: Run) -> str:
    last, steps = run.records[-1], run.identity.get("train.steps")
    total = f" of {steps:,}" if isinstance(steps, int) and steps > 0 else ""
    if run.summary:
        state = f"done: {run.summary.get('steps', last['step']):,} steps"
    else:
        state = f"not done: step {last['step']:,}{total}"
        state += f", written {utc(last['time'])}" if isinstance(last.get("time"), float) else ""
    counts = [(len(run.restarts()), "restart"), (len(run.incidents), "skipped update")]
    return ", ".join([state, *(counted(count, thing) for count, thing in counts if count)])


def _best(run: Run) -> str:
    best = run.best()
    if best is None:
        return ""
    return f"{best[1]:.4f} nats per token (perplexity {_power(best[1]):,.2f}) at step {best[0]:,.0f}"


def _power(nats: float) -> float:
    return math.exp(min(nats, 700.0))


def _model(run: Run) -> str:
    shown = {
        "layers": "layers",
        "width": "width",
        "heads": "heads",
        "context": "context",
        "embedding": "embedding width",
    }
    sizes = {name: run.identity.get(f"model.{key}") for key, name in shown.items()}
    kind = {"GPT2": "GPT-2", "ALGPT2": "ALGPT2"}.get(run.gin_name("model.").removesuffix("."), "")
    texts = [
        counted(size, name.removesuffix("s")) if name in ("layers", "heads") else f"{name} {size:,}"
        for name, size in sizes.items()
        if size
    ]
    return ", ".join([kind, *texts] if kind else texts)


def _parameters(run: Run) -> str:
    count = run.summary.get("parameters")
    description = {key[6:]: value for key, value in run.identity.items() if key.startswith("model.")}
    if count is None and "kind" in description:
        try:
            count = from_description(description).parameters()
        except (TypeError, ValueError, KeyError):
            return ""
    return f"{count:,}" if count is not None else ""


def _optimizer(run: Run) -> str:
    rate, schedule = run.identity.get("optimizer.learning_rate"), run.identity.get("train.schedule")
    if rate is None:
        return ""
    warmup = run.identity.get("train.warmup_steps") or 0
    begin = f" after {warmup:,} steps of warm-up" if warmup else ""
    return f"{run.gin_name('optimizer.').removesuffix('.')}, learning rate {rate:g}, {schedule}{begin}"


def _data(run: Run) -> str:
    last = run.starts[-1] if run.starts else {}
    name = str(last.get("corpus") or run.identity.get("shard.name") or "")
    seen, tokens = run.records[-1].get("tokens"), last.get("train_tokens")
    texts = [name] if name else []
    texts += [f"{tokens:,} train tokens"] if tokens else []
    if seen:
        texts.append(f"{seen:,} seen" + (f" ({seen / tokens:,.2f} passes)" if tokens else ""))
    texts += [str(last["data"])] if last.get("data") else []
    return ", ".join(texts)


def _batch(run: Run) -> str:
    batch, context = run.identity.get("train.global_batch"), run.identity.get("model.context")
    return f"{batch:,} sequences of {context:,} tokens: {batch * context:,} per step" if batch and context else ""


def _speed(run: Run) -> str:
    speed = run.summary.get("train") or {key: run.records[-1].get(key) for key in ("tokens_per_second", "mfu")}
    texts = [f"{speed['tokens_per_second']:,.0f} tokens per second"] if speed.get("tokens_per_second") else []
    texts += [f"{speed['mfu']:.1%} of peak"] if texts and speed.get("mfu") else []
    goodput = run.goodput()
    texts += [f"goodput {goodput[-1][1]:.0%}"] if goodput else []
    return ", ".join(texts)


def _duration(run: Run) -> str:
    history = run.seconds
    return duration(sum(history[-1][1].values())) if history else ""


def _latest(run: Run, name: str) -> str:
    """Returns a fact of the last start, and how often it differed before."""
    values: list[Any] = [start.get(name) for start in run.starts if start.get(name)]
    changes = sum(before != after for before, after in itertools.pairwise(values))
    return (
        (str(values[-1]) + (f" (changed {counted(changes, 'time')} at restarts)" if changes else "")) if values else ""
    )
