"""GPT-2 and ALGPT2 for TensorFlow: models, loss and decoding, lean under XLA. Independent of files, gin and TPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models.config import ALGPT2Config, GPT2Config

if TYPE_CHECKING:
    from models.attention import Attention
    from models.gpt2 import GPT2

__all__ = ["ALGPT2Config", "GPT2Config", "build"]


def build(
    config: GPT2Config,
    *,
    compute_dtype: str = "float32",
    name: str | None = None,
    seed: int = 0,
    attention: Attention | None = None,
) -> GPT2:
    """Returns the built Keras model that ``config`` describes, its weights drawn from ``seed``.

    Args:
        config: ``GPT2Config`` or ``ALGPT2Config`` with a known ``vocabulary_size``.
        compute_dtype: ``"float32"`` or ``"bfloat16"``; the dtype of activations and of the weights' casts. The weights
            themselves, layer-norm statistics, softmax and loss are float32 in both.
        name: the Keras model's name; ``None`` means ``"gpt2"`` or ``"algpt2"``.
        seed: the same seed gives the same weights on every device.
        attention: how attention is computed; ``None`` means with TensorFlow's ops, as in attention.py.

    Raises:
        ValueError: the vocabulary size is unknown, or the dtype is not one of the two.
    """
    # Imported here so that naming a config, for a dry run, does not import TensorFlow.
    from models.algpt2 import ALGPT2
    from models.attention import PLAIN
    from models.gpt2 import GPT2

    kinds: dict[type[GPT2Config], type[GPT2]] = {kind.config_class: kind for kind in (GPT2, ALGPT2)}
    return kinds[type(config)](config, compute_dtype=compute_dtype, name=name, seed=seed, attention=attention or PLAIN)
