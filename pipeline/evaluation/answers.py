"""Likelihoods of answers after their prompts: last words, and choices normalized by their length.

Shapes: B rows per batch, T tokens of the longest row, K tokens of the longest answer, E table width, V vocabulary.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.devices.replicas import strategy_options
from pipeline.errors import UserError
from pipeline.evaluation.benchmarks import Example
from pipeline.evaluation.likelihood import exp, on_replicas
from pipeline.runs.trained_model import TrainedModel


@dataclasses.dataclass(frozen=True)
class Row:
    """The tokens of a prompt, which may be cut, and an answer; the last ``answer`` tokens are scored."""

    tokens: list[int]
    answer: int
    cut: bool


def score(run: TrainedModel, examples: Sequence[Example], *, batch: int) -> dict[str, float]:
    """Returns accuracies, and for examples of one choice (last words) their perplexity.

    ``accuracy`` for last words: the share whose every token is the most likely. For choices: the share in which the
    right one has the highest log-likelihood; ``accuracy_normalised`` divides it by the choice's UTF-8 bytes. A prompt
    longer than the context loses its beginning and counts in ``cut_prompts``. ``batch`` counts rows per replica.

    Raises:
        UserError: an answer is longer than the model's context.
    """
    rows = [_row(run, example.prompt, choice) for example in examples for choice in example.choices]
    counts = {"examples": len(examples), "cut_prompts": sum(row.cut for row in rows)}
    nats, greedy = _score_rows(run, rows, batch * run.replicas)
    if all(len(example.choices) == 1 for example in examples):
        mean = float(nats.sum()) / len(examples)
        return {"accuracy": float(greedy.mean()), "nats_per_word": mean, "perplexity": exp(mean)} | counts
    right = right_normalised = place = 0
    for example in examples:
        of_choices = nats[place : place + len(example.choices)]
        sizes = np.array([len(choice.encode()) for choice in example.choices])
        right += int(np.argmin(of_choices) == example.answer)
        right_normalised += int(np.argmin(of_choices / sizes) == example.answer)
        place += len(example.choices)
    return {"accuracy": right / len(examples), "accuracy_normalised": right_normalised / len(examples)} | counts


def _row(run: TrainedModel, prompt: str, answer: str) -> Row:
    before = [run.tokenizer.end_of_text, *run.tokenizer.encode(prompt)]
    after, context = run.tokenizer.encode(answer), run.model.config.context
    if len(after) > context:
        raise UserError(f"an answer has {len(after)} tokens; the model's context is {context}")
    tokens = (before + after)[-(context + 1) :]
    return Row(tokens, len(after), len(tokens) < len(before) + len(after))


def _score_rows(run: TrainedModel, rows: Sequence[Row], batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns each row's summed nats, float64, and whether every token of its answer is the most likely."""
    longest = max(row.answer for row in rows)
    nats, greedy = np.zeros(len(rows)), np.zeros(len(rows), bool)
    step, context = on_replicas(_answer_step(run), run.strategy), run.model.config.context
    order = np.argsort([len(row.tokens) for row in rows], kind="stable")  # rows of similar length share a batch
    for first in range(0, len(order), batch):
        places = order[first : first + batch]
        length = -(-(max(len(rows[place].tokens) for place in places) - 1) // 64) * 64
        tokens = np.zeros((batch, min(length, context) + 1), np.int32)
        targets, weights = np.zeros((batch, longest), np.int32), np.zeros((batch, longest), np.float32)
        for line, place in enumerate(places):
            row = rows[place]
            tokens[line, : len(row.tokens)] = row.tokens
            targets[line, : row.answer] = np.arange(len(row.tokens) - row.answer - 1, len(row.tokens) - 1)
            weights[line, : row.answer] = 1
        scores = [np.concatenate(values) for values in step(tokens, targets, weights)]
        nats[places], greedy[places] = (score[: len(places)] for score in scores)
    return nats, greedy


def _answer_step(run: TrainedModel) -> Callable[..., Any]:
    """Returns step(tokens [B, T+1], targets [B, K], weights [B, K]) -> (nats [B], all most likely [B])."""

    def score_answers(tokens: tf.Tensor, targets: tf.Tensor, weights: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        features_BKE = tf.gather(run.model.features(tokens[:, :-1]), targets, batch_dims=1)
        labels_BK = tf.gather(tokens[:, 1:], targets, batch_dims=1)
        logits_BKV = run.model.logits(features_BKE)
        nll_BK = tf.nn.sparse_softmax_cross_entropy_with_logits(labels_BK, logits_BKV)
        hit_BK = tf.argmax(logits_BKV, -1, output_type=tf.int32) == labels_BK
        return tf.reduce_sum(nll_BK * weights, -1), tf.reduce_all(hit_BK | (weights == 0), -1)

    return strategy_options(run.strategy)["compiled"](score_answers)
