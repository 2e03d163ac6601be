"""Text generation: one pass over the prompts, then a compiled loop that adds a token per row until all rows have ended.

Shapes: B batch, P width of the prompts, E width of the token table, V vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from models.config import GPT2Config
from models.key_value_cache import Cache, Write, decode_step, prefill, write_plain, write_xla
from models.protocols import LanguageModel
from models.sampling import DEFAULT, Sampling, choose

PROMPT_STEP = 64  # prompts are padded to a multiple of this, so that few widths are compiled


def generate(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    end_of_text: int,
    sampling: Sampling = DEFAULT,
    seed: int = 0,
    compiled: bool = True,
) -> list[list[int]]:
    """Continues each prompt until its text ends or it has ``max_new_tokens`` new tokens.

    Args:
        model: from ``models.build``.
        prompts: token ids, at least one in each.
        max_new_tokens: at least 1; with the longest prompt it fits the model's context.
        end_of_text: the token that ends a row; it is not returned.
        sampling: how tokens are chosen.
        seed: the same seed, prompts and settings give the same tokens.
        compiled: use XLA, which TensorFlow's TPU build has only for TPUs.

    Returns:
        The new tokens of each row, without the prompt.

    Raises:
        ValueError: no prompt, an empty one, an id outside the vocabulary, or more tokens than the context holds.
    """
    _check(model.config, prompts, max_new_tokens)
    lengths = np.array([len(prompt) for prompt in prompts], np.int32)
    width = min(-(-int(lengths.max()) // PROMPT_STEP) * PROMPT_STEP, model.config.context - max_new_tokens)
    tokens = np.zeros((len(prompts), width), np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = prompt
    new_tokens, counts = _program(model, max_new_tokens, sampling, compiled)(
        tf.constant(tokens), tf.constant(lengths), tf.constant(end_of_text), tf.constant(seed, tf.int32)
    )
    return [row[:count].tolist() for row, count in zip(new_tokens.numpy(), counts.numpy(), strict=True)]


def _check(config: GPT2Config, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens}: expected at least 1")
    if not prompts or any(not len(prompt) for prompt in prompts):
        raise ValueError("an empty prompt: give at least one token, for example the end of text")
    longest = max(len(prompt) for prompt in prompts)
    if longest + max_new_tokens > config.context:
        raise ValueError(
            f"a prompt of {longest} tokens and {max_new_tokens} new ones exceed the model's context of "
            f"{config.context}; at most {max(config.context - longest, 0)} new tokens fit"
        )
    for prompt in prompts:
        for token in prompt:
            if not 0 <= token < config.known_vocabulary:
                raise ValueError(f"token {token} in a prompt: expected 0 to {config.known_vocabulary - 1}")


def _program(
    model: LanguageModel, max_new_tokens: int, sampling: Sampling, compiled: bool
) -> Callable[..., tuple[tf.Tensor, tf.Tensor]]:
    """Returns the generator, traced once for each model and setting."""
    programs = model.__dict__.setdefault("_decoding_programs", {})
    key = (max_new_tokens, sampling, compiled)
    if key not in programs:
        programs[key] = tf.function(
            lambda *arguments: _generate(model, max_new_tokens, sampling, compiled, *arguments), jit_compile=compiled
        )
    return programs[key]


def _generate(
    model: LanguageModel,
    max_new_tokens: int,
    sampling: Sampling,
    compiled: bool,
    tokens_BP: tf.Tensor,
    lengths_B: tf.Tensor,
    end_of_text: tf.Tensor,
    seed: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns new tokens int32 [B, max_new_tokens] and the number that each row keeps, int32 [B]."""
    width = tokens_BP.shape[1]
    table_VE = model.output_table()
    write = write_xla if compiled else write_plain
    keys, values, logits_BV = prefill(model, tokens_BP, lengths_B, max_new_tokens, table_VE, write)
    seen_BV = _seen(tokens_BP, lengths_B, model.config.known_vocabulary)
    # A loop over layers needs a stacked cache; in an unrolled one XLA would copy out each layer: 4 % of the time.
    if compiled and model.config.distinct_blocks > 1:
        keys, values = tf.unstack(keys), tf.unstack(values)

    def pick(logits_BV: tf.Tensor, seen_BV: tf.Tensor, step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        token_B = choose(logits_BV, seen_BV, sampling, tf.stack([seed, step]))
        if sampling.repetition_penalty != 1.0:
            seen_BV |= tf.range(seen_BV.shape[1])[None] == token_B[:, None]
        return token_B, seen_BV

    return decode_loop(
        model,
        pick,
        seen_BV,
        logits_BV,
        keys,
        values,
        width=width,
        shift_B=width - lengths_B,
        new_tokens=max_new_tokens,
        end_of_text=end_of_text,
        table_VE=table_VE,
        write=write,
    )


def decode_loop(
    model: LanguageModel,
    pick: Callable,
    memory: tf.Tensor,
    logits_BV: tf.Tensor,
    keys: Cache,
    values: Cache,
    *,
    width: tf.Tensor | int,
    shift_B: tf.Tensor,
    new_tokens: tf.Tensor | int,
    end_of_text: tf.Tensor | int,
    table_VE: tf.Tensor,
    write: Write = write_xla,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes up to ``new_tokens`` tokens per row, until all rows have ended.

    Args:
        model: as for ``generate``.
        pick: (logits [B, V], memory, step) → (tokens int32 [B], memory).
        memory: a tensor that ``pick`` carries from step to step.
        logits_BV: as ``prefill`` returns them.
        keys: as ``prefill`` returns them, or under XLA a list of layers.
        values: likewise.
        width: P, the first free column of the cache.
        shift_B: P minus each prompt's length.
        new_tokens: a number, or an int32 scalar.
        end_of_text: the token that ends a row, likewise.
        table_VE: ``model.output_table()``.
        write: as for ``prefill``.

    Returns:
        New tokens int32 [B, new_tokens] and the number that each row keeps, int32 [B].
    """

    # The loop carries [V, B]: XLA would fold a transposition into the product before it, in the slower order.
    def step_body(*carry: Any) -> tuple[Any, ...]:
        step, tokens, finished_B, counts_B, logits_VB, memory, keys, values = carry
        token_B, memory = pick(tf.transpose(logits_VB), memory, step)
        finished_B |= token_B == end_of_text
        tokens = tf.tensor_scatter_nd_update(tokens, [[step]], token_B[None])
        counts_B += tf.cast(~finished_B, tf.int32)
        logits_BV, keys, values = decode_step(model, token_B, width + step, shift_B, keys, values, table_VE, write)
        return step + 1, tokens, finished_B, counts_B, tf.transpose(logits_BV), memory, keys, values

    batch = logits_BV.shape[0]
    start = (tf.constant(0), tf.zeros([new_tokens, batch], tf.int32), tf.zeros([batch], tf.bool))
    _, tokens, _, counts_B, *_ = tf.while_loop(
        lambda step, tokens, finished_B, *_: (step < new_tokens) & ~tf.reduce_all(finished_B),
        step_body,
        (*start, tf.zeros([batch], tf.int32), tf.transpose(logits_BV), memory, keys, values),
    )
    return tf.transpose(tokens), counts_B


def _seen(tokens_BP: tf.Tensor, lengths_B: tf.Tensor, vocabulary: int) -> tf.Tensor:
    """Marks the tokens of each prompt, bool [B, V]."""
    batch, width = tokens_BP.shape
    inside = tf.range(width)[None] < lengths_B[:, None]
    rows = tf.repeat(tf.range(batch)[:, None], width, 1)
    places = tf.stack([rows, tf.where(inside, tokens_BP, tokens_BP[:, :1])], -1)
    marks = tf.tensor_scatter_nd_update(tf.zeros([batch, vocabulary], tf.int32), places, tf.ones_like(tokens_BP))
    return marks > 0
