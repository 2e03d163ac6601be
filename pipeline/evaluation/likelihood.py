"""Comparable likelihoods: summed over all tokens and normalized three ways."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from models.protocols import LanguageModel
from pipeline.devices.replicas import strategy_options
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
    """Returns e to this power, or infinity if that is too large."""
    return math.exp(nats) if nats < 700 else math.inf


def scorer(
    model: LanguageModel, strategy: tf.distribute.Strategy | None = None
) -> Callable[[dict[str, Any]], tuple[float, float]]:
    """Returns a function batch -> (summed nats, tokens scored), compiled by XLA.

    The replicas of the strategy in whose scope the model was made (None: the current one) divide the batch's rows.
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
    # ``step`` is wrapped: if given a compiled function, a strategy compiles all replicas' calls as one.
    run = tf.function(lambda *shares: strategy.run(lambda *share: step(*share), args=shares))

    def share(rows: Any) -> Any:
        if replicas == 1:
            return tf.convert_to_tensor(rows)
        parts = tf.split(tf.convert_to_tensor(rows), replicas)
        return strategy.experimental_distribute_values_from_function(
            lambda replica: parts[replica.replica_id_in_sync_group]
        )

    return lambda *arrays: [list(strategy.experimental_local_results(value)) for value in run(*map(share, arrays))]
