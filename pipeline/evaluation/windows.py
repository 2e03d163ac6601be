"""The windows of a text: which tokens a model reads for each prediction, and which predictions are scored.

Shapes: N tokens of the text, B windows per batch, T context length.
"""

import math
from collections.abc import Iterator

import numpy as np

from pipeline.errors import UserError


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
        batch: B, over all replicas; windows of weight 0 pad the last batch, so that shapes stay static.

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
