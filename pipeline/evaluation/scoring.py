"""Scores a trained model on shards or on a text: the part of evaluate.py that needs TensorFlow.

``batch`` counts windows per replica.
"""

import itertools
from typing import Any

import numpy as np

from pipeline.data.format import manifest
from pipeline.data.format.hashing import count_words
from pipeline.data.reading import datasets
from pipeline.errors import UserError
from pipeline.evaluation import comparability
from pipeline.evaluation.likelihood import Likelihood, scorer
from pipeline.evaluation.windows import windows
from pipeline.runs.trained_model import TrainedModel


def score_data(run: TrainedModel, directory: str, part: str, *, batch: int) -> tuple[Likelihood, dict[str, Any]]:
    """Scores a whole part in windows that do not overlap; returns the likelihood and its protocol.

    Raises:
        UserError: no such data set or part, another tokenizer, or missing shards.
    """
    data = manifest.load(directory)
    data.check(tokenizer_fingerprint=run.tokenizer.fingerprint, end_of_text=run.tokenizer.end_of_text)
    described = data.part(part)
    data.check_files(directory, part)
    shape = {"global_batch": batch * run.replicas, "context": run.model.config.context}
    dataset = datasets.evaluation_dataset(directory, data, part, **shape, replicas=1)
    nats, tokens = _sum(run, itertools.islice(dataset, datasets.evaluation_steps(data, part, **shape)))
    protocol = {
        "data": directory,
        "part": part,
        "corpus": f"{data.corpus.name} {data.corpus.fingerprint}",
        "packing": data.record.packing,
        "stride": run.model.config.context,
        "words": described.word_rule,
    }
    if not data.record.scores_all_text:
        left_out = {"first_token": "of each line: not scored", "left_out": comparability.LEFT_OUT}
        return Likelihood(nats, tokens), protocol | left_out
    whole = {"first_token": "of the part: not scored", "last_window": comparability.SHORT}
    return Likelihood(nats, tokens, described.words, described.utf8_bytes), protocol | whole


def score_text(
    run: TrainedModel, text: str, *, published: str | None = None, context: int, stride: int, batch: int
) -> Likelihood:
    """Scores every token of a text, the first after an end-of-text token; counts words as for WikiText.

    The words, bytes and characters of ``published`` (None: the same text) divide the likelihood. Windows of ``context``
    tokens, at most the model's, begin every ``stride`` tokens.

    Raises:
        UserError: a context above the model's, a stride above the context, or a text shorter than a window.
    """
    if not 1 <= context <= run.model.config.context:
        raise UserError(f"--context={context}: expected 1 to {run.model.config.context}, the model's context")
    if not 1 <= stride <= context:
        raise UserError(f"--stride={stride}: expected 1 to {context}, the tokens of a window")
    tokens = np.array([run.tokenizer.end_of_text, *run.tokenizer.encode(text)])
    if len(tokens) - 1 < context:
        raise UserError(
            f"the text has {len(tokens) - 1} tokens, fewer than a window of {context}; "
            f"expected a longer text, or --context={len(tokens) - 1}"
        )
    nats, scored = _sum(run, windows(tokens, context=context, stride=stride, batch=batch * run.replicas))
    published = text if published is None else published
    words = count_words(published.encode(), "whitespace+newline")
    return Likelihood(nats, scored, words, len(published.encode()), len(published))


def _sum(run: TrainedModel, batches: Any) -> tuple[float, int]:
    score, nats, tokens = scorer(run.model, run.strategy), 0.0, 0.0
    for batch in batches:
        batch_nats, batch_tokens = score(batch)
        nats, tokens = nats + batch_nats, tokens + batch_tokens
    if not tokens:
        raise UserError("there is no token to score; expected a text of at least one token")
    return nats, round(tokens)
