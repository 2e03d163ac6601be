"""Comparable likelihoods: summed over all tokens and normalised three ways.

Shapes: N tokens of the text, W windows, B windows per batch, T context length.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from models.protocols import LanguageModel
from pipeline.devices.replicas import strategy_options
from pipeline.errors import UserError
from pipeline.evaluation.evaluation_step import make_evaluation_step


@dataclasses.dataclass(frozen=True)
class Likelihood:
    """Summed negative log-likelihood in nats, and its divisors: units of the scored text, or None."""

    nats: float
    tokens: int
    words: int | None = None
    utf8_bytes: int | None = None
    characters: int | None = None

    def figures(self) -> dict[str, float]:
        """Returns nats per token, perplexities, and bits per byte and per character; divides before exponentiating."""
        per_token, bits = self.nats / self.tokens, self.nats / math.log(2)
        figures = {"nats_per_token": per_token, "token_perplexity": exp(per_token), "tokens": self.tokens}
        if self.words is not None:
            figures |= {"word_perplexity": exp(self.nats / max(self.words, 1)), "words": self.words}
        if self.utf8_bytes:
            figures |= {"bits_per_byte": bits / self.utf8_bytes, "utf8_bytes": self.utf8_bytes}
        if self.characters:
            figures |= {"bits_per_character": bits / self.characters, "characters": self.characters}
        return figures


def exp(nats: float) -> float:
    """Returns e to this power, or infinity where that is too large."""
    return math.exp(nats) if nats < 700 else math.inf


def windows(tokens: np.ndarray, *, context: int, stride: int, batch: int) -> Iterator[dict[str, np.ndarray]]:
    """Splits a token stream into windows that score every token but the first exactly once.

    Window w reads tokens w·stride … w·stride + T. The first scores all its labels, the others their last ``stride``,
    so that all but the first ``T`` labels have at least T - stride tokens before them. The last window is moved back
    to end with the text, as lm_eval's rolling windows do: it scores the remaining labels with full context. Only a text
    shorter than a window is padded.

    Args:
        tokens: ids [N], N ≥ 2.
        context: T.
        stride: tokens between the starts of windows, 1 … T; T means that windows do not overlap.
        batch: B, over all replicas; the last batch is filled up with windows of weight 0, so that shapes stay static.

    Yields:
        ``tokens`` int32 [B, T+1] and ``weights`` float32 [B, T], 1 where the label tokens[:, 1:] is scored.

    Raises:
        UserError: a stride outside 1 … T, or fewer than two tokens.
    """
    if not 1 <= stride <= context:
        raise UserError(f"--stride={stride}: expected 1 to {context}, the model's context")
    labels = len(tokens) - 1
    if labels < 1:
        raise UserError(f"the text has {len(tokens)} token(s); expected at least 2")
    count = 1 + max(0, math.ceil((labels - context) / stride))
    for first in range(0, count, batch):
        numbers_B1 = (first + np.arange(batch))[:, None]
        starts_B1 = np.clip(numbers_B1 * stride, 0, max(0, labels - context))
        places = starts_B1 + np.arange(context + 1)[None]
        rank_BT = starts_B1 + np.arange(context)[None]  # the index of each label in the stream
        scored_before_B1 = np.where(numbers_B1 == 0, 0, (numbers_B1 - 1) * stride + context)
        weights = (rank_BT >= scored_before_B1) & (rank_BT < labels) & (numbers_B1 < count)
        yield {"tokens": tokens[np.minimum(places, labels)].astype(np.int32), "weights": weights.astype(np.float32)}


def scorer(
    model: LanguageModel, strategy: tf.distribute.Strategy | None = None
) -> Callable[[dict[str, Any]], tuple[float, float]]:
    """Returns a function batch -> (summed nats, tokens scored), compiled by XLA.

    The replicas of the strategy (None: the current one), in whose scope the model was made, divide the batch's rows.
    """
    strategy = strategy or tf.distribute.get_strategy()
    evaluation_step = make_evaluation_step(model, **strategy_options(strategy))
    step = on_replicas(lambda tokens, weights: evaluation_step({"tokens": tokens, "weights": weights}), strategy)

    def score(batch: dict[str, Any]) -> tuple[float, float]:
        nats, tokens = step(batch["tokens"], batch["weights"])  # each replica has the sums over all replicas
        return float(nats[0]), float(tokens[0])

    return score


def on_replicas(step: Callable, strategy: tf.distribute.Strategy) -> Callable[..., list[list[tf.Tensor]]]:
    """Returns a function that runs ``step`` on each replica's share of the rows of its arrays.

    It returns, for each output of ``step``, the list of the replicas' values, in the order of the rows.
    """
    replicas = strategy.num_replicas_in_sync
    # ``step`` is wrapped: given a compiled function itself, a strategy compiles all replicas' calls as one.
    run = tf.function(lambda *shares: strategy.run(lambda *share: step(*share), args=shares))

    def share(rows: Any) -> Any:
        if replicas == 1:
            return tf.convert_to_tensor(rows)
        parts = tf.split(tf.convert_to_tensor(rows), replicas)
        return strategy.experimental_distribute_values_from_function(
            lambda replica: parts[replica.replica_id_in_sync_group]
        )

    return lambda *arrays: [list(strategy.experimental_local_results(value)) for value in run(*map(share, arrays))]
