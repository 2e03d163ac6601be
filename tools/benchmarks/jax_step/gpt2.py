"""GPT-2's training step as a JAX user would write it, for comparison; development only (requirements-dev.txt).

jax.grad, optax, one mesh axis for data; weights float32, activations in the compute dtype, no remat, no dropout. The
weights have our names and shapes, so both models can use the same. Imports no TensorFlow.

Shapes: B sequences per device, T context, D width, H heads, K head width, V vocabulary (padded), N devices.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from models.config import GPT2Config
from models.weight_specs import weight_specs

Weights = dict[str, jax.Array]
Attention = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]  # q, k, v [B, H, T, K] -> [B, H, T, K]
EPSILON = 1e-5
AXIS = "data"


def plain(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Causal attention by ``jax.nn.dot_product_attention``, which XLA compiles; softmax in float32."""
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
    return jax.nn.dot_product_attention(q, k, v, is_causal=True).swapaxes(1, 2)


def splash_attention(heads: int, context: int, block: int, *, interpret: bool = False) -> Attention:
    """Returns JAX's splash attention, causal, in squares of ``block`` scores, with its fused backward kernel."""
    sizes = splash.BlockSizes(
        block_q=block,
        block_kv=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        use_fused_bwd_kernel=True,
    )
    mask = masks.MultiHeadMask([masks.CausalMask((context, context))] * heads)
    kernel = splash.make_splash_mha(mask, block_sizes=sizes, head_shards=1, q_seq_shards=1, interpret=interpret)
    return lambda q, k, v: jax.vmap(kernel)(q * q.shape[-1] ** -0.5, k, v)


def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """Normalizes the last axis in float32."""
    wide = x.astype(jnp.float32)
    mean = wide.mean(-1, keepdims=True)
    variance = jnp.square(wide - mean).mean(-1, keepdims=True)
    return ((wide - mean) * jax.lax.rsqrt(variance + EPSILON) * scale + bias).astype(x.dtype)


def block(x: jax.Array, weights: Weights, heads: int, attention: Attention) -> jax.Array:
    """Applies one pre-norm block to [B, T, D]."""
    w = {name: value.astype(x.dtype) for name, value in weights.items() if "norm" not in name}
    length, width = x.shape[1:]
    normal = layer_norm(x, weights["attention_norm_scale"], weights["attention_norm_bias"])
    together = normal @ w["query_key_value_kernel"] + w["query_key_value_bias"]
    # Not one einsum to [3, B, H, T, K], which gives the same but costs 0.1 ms more per layer on a v5e.
    parts = jnp.split(together, 3, axis=-1)
    q, k, v = (part.reshape(-1, length, heads, width // heads).swapaxes(1, 2) for part in parts)
    output = attention(q, k, v).swapaxes(1, 2).reshape(-1, length, width)
    x += output @ w["attention_output_kernel"] + w["attention_output_bias"]
    normal = layer_norm(x, weights["mlp_norm_scale"], weights["mlp_norm_bias"])
    hidden = jax.nn.gelu(normal @ w["mlp_input_kernel"] + w["mlp_input_bias"], approximate=True)
    return x + hidden @ w["mlp_output_kernel"] + w["mlp_output_bias"]


def loss(weights: Weights, tokens: jax.Array, config: GPT2Config, dtype: Any, attention: Attention) -> jax.Array:
    """Returns the mean nats per token of tokens, int32 [B, T + 1], float32.

    The cross entropy is not chunked: XLA decides which float32 logits, [B, T, V], go to HBM.
    """
    inputs, labels = tokens[:, :-1], tokens[:, 1:]
    x = (weights["token_table"][inputs] + weights["position_table"][: inputs.shape[1]]).astype(dtype)
    for layer in range(config.layers):
        prefix = f"block_{layer:02d}/"
        own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        x = block(x, own, config.heads, attention)
    x = layer_norm(x, weights["final_norm_scale"], weights["final_norm_bias"])
    table = weights["token_table"].astype(dtype)
    logits = jnp.einsum("btd,vd->btv", x, table, preferred_element_type=jnp.float32)
    rows = jnp.arange(table.shape[0])
    logits = jnp.where(rows < config.known_vocabulary, logits, -1e30)
    # A masked sum, not a gather, whose gradient would write a second array as large as the logits.
    of_labels = jnp.where(rows == labels[..., None], logits, 0.0).sum(-1)
    return (jax.nn.logsumexp(logits, -1) - of_labels).mean()


def optimizer() -> optax.GradientTransformation:
    """Adafactor as gpt2.gin sets it, after clipping by the global norm."""
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adafactor(4e-2))


def train_step(
    weights: Weights, state: Any, tokens: jax.Array, *, config: GPT2Config, attention: Attention
) -> tuple[Weights, Any, jax.Array]:
    """Returns the new weights, the new state and the loss; called on each device with its own tokens [B, T + 1]."""
    value, gradient = jax.value_and_grad(loss)(weights, tokens, config, jnp.bfloat16, attention)
    value, gradient = jax.lax.pmean((value, gradient), AXIS)
    updates, state = optimizer().update(gradient, state, weights)
    return optax.apply_updates(weights, updates), state, value


def lowered_step(config: GPT2Config, attention: Attention, sequences: int, devices: list[Any]) -> Any:
    """Lowers the step for devices, which need not exist, with ``sequences`` on each; returns jit's ``Lowered``."""
    mesh = Mesh(devices, (AXIS,))
    everywhere, split = NamedSharding(mesh, P()), NamedSharding(mesh, P(AXIS))

    def described(values: Any) -> Any:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), values)

    weights = {
        name: jax.ShapeDtypeStruct(spec.shape, jnp.float32, sharding=everywhere)
        for name, spec in weight_specs(config).items()
    }
    state = described(jax.eval_shape(optimizer().init, weights))
    tokens = jax.ShapeDtypeStruct((len(devices) * sequences, config.context + 1), jnp.int32, sharding=split)
    step = jax.shard_map(
        functools.partial(train_step, config=config, attention=attention),
        mesh=mesh,
        in_specs=(P(), P(), P(AXIS)),
        out_specs=(P(), P(), P()),
        check_vma=False,  # gradients stay local to each device until pmean, which adds them once, in float32
    )
    return jax.jit(step, donate_argnums=(0, 1)).lower(weights, state, tokens)
