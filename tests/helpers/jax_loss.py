"""The JAX step's loss and gradients on the CPU; for a process of its own, without TensorFlow."""

import functools
import os

import numpy as np

from models.config import GPT2Config


def loss_and_gradients(
    weights: dict[str, np.ndarray], tokens: np.ndarray, config: GPT2Config, square: int | None
) -> tuple[float, dict[str, np.ndarray]]:
    """Returns the mean nats per token and the gradients, float32; splash attention in such squares if not None."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax
    import jax.numpy as jnp

    from tools.benchmarks.jax_step import gpt2

    attention = gpt2.plain
    if square:
        attention = gpt2.splash_attention(config.heads, config.context, square, interpret=True)
    of_weights = functools.partial(gpt2.loss, tokens=tokens, config=config, dtype=jnp.float32, attention=attention)
    loss, gradients = jax.jit(jax.value_and_grad(of_weights))(weights)
    return float(loss), {name: np.asarray(value) for name, value in gradients.items()}
