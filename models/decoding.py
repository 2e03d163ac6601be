"""Text generation: one pass over the prompts, then a compiled loop over a key/value cache.

Prompts of different lengths share a batch: after the first pass each row is shifted so that all prompts end at the same
column of the cache, and every row then writes to the same column. A row's positions start at its first token, so a row
does not depend on its neighbours.

Letters: B batch, P width of the prompts, S = P + new tokens, H heads, K head width, D width, E width of the
token table, V vocabulary, L layers.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.compiler.tf2xla.ops import gen_xla_ops  # XlaDynamicUpdateSlice has no public alias

from models.attention import causal_attention
from models.block import BlockWeights, attention_output, mlp_half, query_key_value
from models.operations import dense, float32, layer_norm
from models.sampling import DEFAULT, NEVER, Sampling, choose

PROMPT_STEP = 64  # prompts are padded to multiples of it, so that few widths are compiled


def write_xla(cache, update_BHKT, layer, column):
    """Writes keys or values of T tokens into the cache at (layer, column), in place under XLA."""
    if not tf.is_tensor(cache):
        updated = gen_xla_ops.xla_dynamic_update_slice(cache[layer], update_BHKT, tf.stack([0, 0, 0, column]))
        return [*cache[:layer], updated, *cache[layer + 1 :]]
    return gen_xla_ops.xla_dynamic_update_slice(cache, update_BHKT[None], tf.stack([layer, 0, 0, 0, column]))


def write_plain(cache, update_BHKT, layer, column):
    """As ``write_xla``, without XLA: in place too, since nothing else holds the cache then.

    Several tokens (a prompt's, at column 0, into an empty cache) are written as a whole layer: an index of each element
    would be larger than the elements.
    """
    _, heads, head_width, length = update_BHKT.shape
    if length > 1:
        layer_BHKS = tf.pad(update_BHKT, [[0, 0], [0, 0], [0, 0], [0, tf.shape(cache)[-1] - length]])
        return tf.tensor_scatter_nd_update(cache, [[layer]], layer_BHKS[None])
    rows, columns = tf.range(tf.shape(update_BHKT)[0]), column + tf.range(length)
    places = tf.meshgrid(layer, rows, tf.range(heads), tf.range(head_width), columns, indexing="ij")
    return tf.tensor_scatter_nd_update(cache, tf.stack(places, -1), update_BHKT[None])


def generate(
    model: Any,
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
        compiled: by XLA, which the TPU build of TensorFlow has only for TPUs.

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


def _check(config, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
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


def _program(model: Any, max_new_tokens: int, sampling: Sampling, compiled: bool):
    """Returns the generator, traced once for each model and setting."""
    programs = model.__dict__.setdefault("_decoding_programs", {})
    key = (max_new_tokens, sampling, compiled)
    if key not in programs:
        programs[key] = tf.function(
            lambda *arguments: _generate(model, max_new_tokens, sampling, compiled, *arguments), jit_compile=compiled
        )
    return programs[key]


def _generate(model, max_new_tokens: int, sampling: Sampling, compiled: bool, tokens_BP, lengths_B, end_of_text, seed):
    """Returns new tokens int32 [B, max_new_tokens] and the number that each row keeps, int32 [B]."""
    width = tokens_BP.shape[1]
    table_VE = model.output_table()
    write = write_xla if compiled else write_plain
    keys, values, logits_BV = prefill(model, tokens_BP, lengths_B, max_new_tokens, table_VE, write)
    seen_BV = _seen(tokens_BP, lengths_B, model.config.known_vocabulary)
    # A stacked cache is for a loop over layers; unrolled, XLA would copy each layer out of it: 4 % of the time.
    if compiled and len(model.blocks) > 1:
        keys, values = tf.unstack(keys), tf.unstack(values)

    def pick(logits_BV, seen_BV, step):
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
    model: Any,
    pick: Callable,
    memory: tf.Tensor,
    logits_BV: tf.Tensor,
    keys: tf.Tensor,
    values: tf.Tensor,
    *,
    width,
    shift_B,
    new_tokens,
    end_of_text,
    table_VE,
    write=write_xla,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes up to ``new_tokens`` tokens per row, until all rows have ended.

    Args:
        pick: (logits [B, V], memory, step) → (tokens int32 [B], memory).
        memory: a tensor that ``pick`` carries from step to step.
        logits_BV, keys, values: as ``prefill`` returns them; under XLA keys and values may be lists of layers.
        width: P, the first free column of the cache.
        shift_B: P minus each prompt's length.
        new_tokens, end_of_text: numbers, or int32 scalars.
        table_VE: ``model.output_table()``.
        write: as for ``prefill``.

    Returns:
        New tokens int32 [B, new_tokens] and the number that each row keeps, int32 [B].
    """
    batch = logits_BV.shape[0]

    # The loop carries [V, B]: XLA would fold a transposition into the product before it, in the slow order.
    def step_body(step, tokens, finished_B, counts_B, logits_VB, memory, keys, values):
        token_B, memory = pick(tf.transpose(logits_VB), memory, step)
        finished_B |= token_B == end_of_text
        tokens = tf.tensor_scatter_nd_update(tokens, [[step]], token_B[None])
        counts_B += tf.cast(~finished_B, tf.int32)
        logits_BV, keys, values = decode_step(model, token_B, width + step, shift_B, keys, values, table_VE, write)
        return step + 1, tokens, finished_B, counts_B, tf.transpose(logits_BV), memory, keys, values

    start = (tf.constant(0), tf.zeros([new_tokens, batch], tf.int32), tf.zeros([batch], tf.bool))
    _, tokens, _, counts_B, *_ = tf.while_loop(
        lambda step, tokens, finished_B, *_: (step < new_tokens) & ~tf.reduce_all(finished_B),
        step_body,
        (*start, tf.zeros([batch], tf.int32), tf.transpose(logits_BV), memory, keys, values),
    )
    return tf.transpose(tokens), counts_B


def _seen(tokens_BP, lengths_B, vocabulary: int):
    """Marks the tokens of each prompt, bool [B, V]."""
    batch, width = tokens_BP.shape
    inside = tf.range(width)[None] < lengths_B[:, None]
    rows = tf.repeat(tf.range(batch)[:, None], width, 1)
    places = tf.stack([rows, tf.where(inside, tokens_BP, tokens_BP[:, :1])], -1)
    marks = tf.tensor_scatter_nd_update(tf.zeros([batch, vocabulary], tf.int32), places, tf.ones_like(tokens_BP))
    return marks > 0


def prefill(model, tokens_BP, lengths_B, new_tokens, table_VE, write=write_xla):
    """Runs the prompts through the model in one pass.

    Args:
        tokens_BP, lengths_B: int32 prompts, padded with any token, and their lengths.
        new_tokens: columns of the cache after the prompts', a number or an int32 scalar.
        table_VE: ``model.output_table()``.
        write: writes keys or values into a cache: ``write_xla``, or ``write_plain`` where XLA does not compile.

    Returns:
        Keys and values [L, B, H, K, S], each row shifted to end its prompt at column P, and the logits [B, V] after
        each prompt's last token.
    """
    config, (batch, width) = model.config, tokens_BP.shape
    # The columns before a row's first token are masked in every later step.
    columns_BP = tf.maximum(tf.range(width)[None] - (width - lengths_B)[:, None], 0)
    shape = (config.layers, batch, config.heads, config.head_width, width + new_tokens)

    def layer_body(layer, weights: BlockWeights, x, keys, values):
        normal, _ = layer_norm(x, weights.attention_norm_scale, weights.attention_norm_bias)
        q, k, v = query_key_value(normal, weights, config.heads)
        x += attention_output(_merged(causal_attention(q, k, v)[0]), weights)
        k, v = (tf.gather(tf.transpose(y, [0, 3, 1, 2]), columns_BP, batch_dims=1) for y in (k, v))
        keys = write(keys, tf.transpose(k, [0, 2, 3, 1]), layer, 0)
        values = write(values, tf.transpose(v, [0, 2, 3, 1]), layer, 0)
        return mlp_half(x, weights, config, None, layer)[0], keys, values

    empty = tf.zeros(shape, model.activation_dtype)
    x, keys, values = model.over_blocks(layer_body, model.embed(tokens_BP, tf.range(width)), empty, empty)
    last_B1D = tf.gather(x, lengths_B - 1, batch_dims=1)[:, None]
    return keys, values, _logits(model, last_B1D, table_VE)


def decode_step(model, token_B, column, shift_B, keys, values, table_VE, write=write_xla):
    """Adds one token per row, at ``column`` of the cache; returns the next logits [B, V] and the cache."""
    config = model.config
    columns = tf.range(tf.shape(keys if tf.is_tensor(keys) else keys[0])[-1])[None]
    visible = ((columns >= shift_B[:, None]) & (columns <= column))[:, None, None]  # [B, 1, 1, S]

    def layer_body(layer, weights: BlockWeights, x, keys, values):
        normal, _ = layer_norm(x, weights.attention_norm_scale, weights.attention_norm_bias)
        # One row, so splitting the product is cheap.
        fused = dense(normal, weights.query_key_value_kernel, weights.query_key_value_bias)
        shape = [-1, config.heads, config.head_width, 1]
        q, k, v = (tf.reshape(part, shape) for part in tf.split(fused, 3, -1))
        keys, values = write(keys, k, layer, column), write(values, v, layer, column)
        scores = tf.einsum("bhkq,bhks->bhqs", float32(q), float32(keys[layer])) * config.head_width**-0.5
        seen = tf.cast(tf.nn.softmax(tf.where(visible, scores, NEVER)), v.dtype)
        x += attention_output(_merged(tf.einsum("bhqs,bhks->bhkq", seen, values[layer])), weights)
        return mlp_half(x, weights, config, None, layer)[0], keys, values

    # A finished row continues until all are finished; its position must stay inside the table.
    position_B1 = tf.minimum(column - shift_B, config.context - 1)[:, None]
    x, keys, values = model.over_blocks(layer_body, model.embed(token_B[:, None], position_B1), keys, values)
    return _logits(model, x, table_VE), keys, values


def _logits(model, x_B1D, table_VE):
    """Returns float32 [B, V]. XLA on a CPU is three times slower with the table as right operand of a few rows."""
    tokens_BE = float32(model.finish(x_B1D)[:, 0])
    return tf.transpose(tf.matmul(table_VE, tokens_BE, transpose_b=True))


def _merged(output_BHKT):
    _, heads, head_width, length = output_BHKT.shape
    return tf.reshape(output_BHKT, [-1, heads * head_width, length])
