"""Windows: every token but the first is scored once, with the context that the stride promises."""

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.evaluation.likelihood import Likelihood
from pipeline.evaluation.windows import windows


@pytest.mark.parametrize("count", [2, 8, 9, 10, 17, 40, 41])
@pytest.mark.parametrize("stride", [1, 3, 8])
@pytest.mark.parametrize("batch", [1, 4])
def test_every_token_but_the_first_is_scored_once(count, stride, batch):
    tokens, context = np.arange(100, 100 + count), 8
    scored, contexts = [], []
    for window in windows(tokens, context=context, stride=stride, batch=batch):
        assert window["tokens"].shape == (batch, context + 1) and window["weights"].shape == (batch, context)
        for row, weights in zip(window["tokens"], window["weights"], strict=True):
            for place in np.flatnonzero(weights):
                assert row[place + 1] == row[place] + 1
                scored.append(row[place + 1])
                contexts.append(place + 1)
    assert scored == list(tokens[1:])
    assert all(seen >= min(rank + 1, context - stride + 1) for rank, seen in enumerate(contexts))
    assert contexts[-1] == min(count - 1, context), "the last window has less context than there is"


@pytest.mark.parametrize("stride", [0, 9])
def test_a_stride_outside_the_context_is_refused(stride):
    with pytest.raises(UserError, match="expected 1 to 8"):
        next(windows(np.arange(20), context=8, stride=stride, batch=1))


def test_figures_are_scaled_before_they_are_exponentiated():
    figures = Likelihood(nats=20_000.0, tokens=10_000, words=8_000, utf8_bytes=40_000).figures()
    assert figures["token_perplexity"] == pytest.approx(np.exp(2.0))
    assert figures["word_perplexity"] == pytest.approx(np.exp(2.5))
    assert figures["bits_per_byte"] == pytest.approx(0.5 / np.log(2))
    assert Likelihood(nats=1e6, tokens=1, words=1, utf8_bytes=1).figures()["token_perplexity"] == np.inf
    assert Likelihood(nats=2.0, tokens=4).figures() == {
        "nats_per_token": 0.5,
        "token_perplexity": pytest.approx(np.exp(0.5)),
        "tokens": 4,
    }


def test_windows_are_those_of_lm_eval():
    """lm_eval's get_rolling_token_windows, with max_seq_len = 8 and context_len = 8 - stride + 1."""
    made = {
        8: [(1, 1, 8), (9, 9, 16), (12, 17, 19)],
        3: [(1, 1, 8), (4, 9, 11), (7, 12, 14), (10, 15, 17), (12, 18, 19)],
    }
    for stride, expected in made.items():
        (batch,) = windows(np.arange(20), context=8, stride=stride, batch=len(expected))
        for row, weights, (first, low, high) in zip(batch["tokens"], batch["weights"], expected, strict=True):
            labels = row[1:][weights > 0]
            assert (row[1], labels[0], labels[-1], len(labels)) == (first, low, high, high - low + 1)
