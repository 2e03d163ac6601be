"""The key/value cache of generation: the pass over the prompts that fills it, and the step that adds a token per row.

Prompts of different lengths share a batch: the first pass shifts each row so that all prompts end at the same column of
the cache, and every row then writes to the same column. A row's positions start at its first token, so a row does not
depend on its neighbors.

Shapes: B batch, P width of the prompts, S = P + new tokens, H heads, K head width, D width, V vocabulary,
E width of the token table, L layers.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import tensorflow as tf
from tensorflow.compiler.tf2xla.ops import gen_xla_ops  # XlaDynamicUpdateSlice has no public alias

from models.attention import causal_attention
from models.block import BlockWeights, Layer, attention_output, mlp_half, query_key_value
from models.operations import dense, float32, layer_norm
from models.protocols import LanguageModel
from models.sampling import NEVER

Cache: TypeAlias = tf.Tensor | list[tf.Tensor]  # keys or values [L, B, H, K, S], or a list of layers [B, H, K, S]
Write = Callable[[Cache, tf.Tensor, Layer, tf.Tensor | int], Cache]


def write_xla(cache: Cache, update_BHKT: tf.Tensor, layer: Layer, column: tf.Tensor | int) -> Cache:
    """Writes keys or values of T tokens into the cache at (layer, column), in place under XLA."""
    if not tf.is_tensor(cache):
        updated = gen_xla_ops.xla_dynamic_update_slice(cache[layer], update_BHKT, tf.stack([0, 0, 0, column]))
        return [*cache[:layer], updated, *cache[layer + 1 :]]
    return gen_xla_ops.xla_dynamic_update_slice(cache, update_BHKT[None], tf.stack([layer, 0, 0, 0, column]))


def write_plain(cache: Cache, update_BHKT: tf.Tensor, layer: Layer, column: tf.Tensor | int) -> Cache:
    """As ``write_xla``, without XLA: in place too, since nothing else holds the cache then.

    A prompt's tokens (at column 0, into an empty cache) are written as a whole layer: an index per element would be
    larger than the elements.
    """
    _, heads, head_width, length = update_BHKT.shape
    if length > 1:
        layer_BHKS = tf.pad(update_BHKT, [[0, 0], [0, 0], [0, 0], [0, tf.shape(cache)[-1] - length]])
        return tf.tensor_scatter_nd_update(cache, [[layer]], layer_BHKS[None])
    rows, columns = tf.range(tf.shape(update_BHKT)[0]), column + tf.range(length)
    places = tf.meshgrid(layer, rows, tf.range(heads), tf.range(head_width), columns, indexing="ij")
    return tf.tensor_scatter_nd_update(cache, tf.stack(places, -1), update_BHKT[None])


def prefill(
    model: LanguageModel,
    tokens_BP: tf.Tensor,
    lengths_B: tf.Tensor,
    new_tokens: tf.Tensor | int,
    table_VE: tf.Tensor,
    write: Write = write_xla,
) -> tuple[Cache, Cache, tf.Tensor]:
    """Runs the prompts through the model in one pass.

    Args:
        model: as for ``generate``.
        tokens_BP: int32 prompts, padded with any token.
        lengths_B: int32, their lengths.
        new_tokens: columns of the cache after the prompts', a number or an int32 scalar.
        table_VE: ``model.output_table()``.
        write: writes keys or values into a cache: ``write_xla``, or ``write_plain`` without XLA.

    Returns:
        Keys and values [L, B, H, K, S], each row shifted to end its prompt at column P, and the logits [B, V] after
        each prompt's last token.
    """
    config, (batch, width) = model.config, tokens_BP.shape
    # The columns before a row's first token are masked in every later step.
    columns_BP = tf.maximum(tf.range(width)[None] - (width - lengths_B)[:, None], 0)
    shape = (config.layers, batch, config.heads, config.head_width, width + new_tokens)

    def layer_body(layer: Layer, weights: BlockWeights, x: tf.Tensor, keys: Cache, values: Cache) -> tuple[Any, ...]:
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


def decode_step(
    model: LanguageModel,
    token_B: tf.Tensor,
    column: tf.Tensor | int,
    shift_B: tf.Tensor,
    keys: Cache,
    values: Cache,
    table_VE: tf.Tensor,
    write: Write = write_xla,
) -> tuple[tf.Tensor, Cache, Cache]:
    """Adds one token per row, at ``column`` of the cache; returns the next logits [B, V] and the cache."""
    config = model.config
    columns = tf.range(tf.shape(keys if tf.is_tensor(keys) else keys[0])[-1])[None]
    visible = ((columns >= shift_B[:, None]) & (columns <= column))[:, None, None]  # [B, 1, 1, S]

    def layer_body(layer: Layer, weights: BlockWeights, x: tf.Tensor, keys: Cache, values: Cache) -> tuple[Any, ...]:
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

    # A finished row continues until all rows are finished; its position must stay inside the table.
    position_B1 = tf.minimum(column - shift_B, config.context - 1)[:, None]
    x, keys, values = model.over_blocks(layer_body, model.embed(token_B[:, None], position_B1), keys, values)
    return _logits(model, x, table_VE), keys, values


def _logits(model: LanguageModel, x_B1D: tf.Tensor, table_VE: tf.Tensor) -> tf.Tensor:
    """Returns float32 [B, V]. XLA on a CPU is three times slower with the table as right operand of a few rows."""
    tokens_BE = float32(model.finish(x_B1D)[:, 0])
    return tf.transpose(tf.matmul(table_VE, tokens_BE, transpose_b=True))


def _merged(output_BHKT: tf.Tensor) -> tf.Tensor:
    _, heads, head_width, length = output_BHKT.shape
    return tf.reshape(output_BHKT, [-1, heads * head_width, length])
