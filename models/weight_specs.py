"""What variables a model has, without building it: names, shapes and initial size. Imports nothing heavy.

Letters: V vocabulary (padded), E table width, D width, T context.
"""

from typing import NamedTuple

from models.config import MLP_FACTOR, ALGPT2Config, GPT2Config

STANDARD_DEVIATION = 0.02


class Description(NamedTuple):
    """A variable's shape, and the root mean square of its initial weights (of the real rows of a padded table)."""

    shape: tuple[int, ...]
    rms: float


def describe(config: GPT2Config) -> dict[str, Description]:
    """Returns the trainable variables by name, as a built model has them, in its order.

    Raises:
        ValueError: the vocabulary's size is not known.
    """
    tables, width = config.table_width, config.width
    found = {
        "token_table": Description((config.padded_vocabulary, tables), STANDARD_DEVIATION),
        "position_table": Description((config.context, tables), STANDARD_DEVIATION),
    }
    if isinstance(config, ALGPT2Config) and config.embedding is not None:
        found["enter_kernel"] = Description((tables, width), STANDARD_DEVIATION)
        found["enter_bias"] = Description((width,), 0.0)
        found["leave_kernel"] = Description((width, tables), STANDARD_DEVIATION)
        found["leave_bias"] = Description((tables,), 0.0)
    found["final_norm_scale"], found["final_norm_bias"] = Description((width,), 1.0), Description((width,), 0.0)
    for layer in range(config.distinct_blocks):
        found |= {f"block_{layer:02d}/{name}": value for name, value in _block(config).items()}
    return found


def _block(config: GPT2Config) -> dict[str, Description]:
    width, hidden = config.width, MLP_FACTOR * config.width
    residual = STANDARD_DEVIATION / (2 * config.layers) ** 0.5
    found = {}
    for half, kernels in (
        ("attention", {"query_key_value": (width, 3 * width), "attention_output": (width, width)}),
        ("mlp", {"mlp_input": (width, hidden), "mlp_output": (hidden, width)}),
    ):
        found[f"{half}_norm_scale"], found[f"{half}_norm_bias"] = Description((width,), 1.0), Description((width,), 0.0)
        for name, shape in kernels.items():
            rms = residual if name.endswith("output") else STANDARD_DEVIATION
            found[f"{name}_kernel"] = Description(shape, rms)
            found[f"{name}_bias"] = Description(shape[1:], 0.0)
    return found
