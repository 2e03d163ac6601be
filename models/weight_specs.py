"""The variables of a model without building it: names, shapes and initial RMS. Imports neither TensorFlow nor Keras.

Shapes: V vocabulary (padded), E table width, D width, T context.
"""

from typing import NamedTuple

from models.config import MLP_FACTOR, ALGPT2Config, GPT2Config

STANDARD_DEVIATION = 0.02
# The kernels of blocks, and the matrices [inputs, outputs] that stand side by side in each.
BLOCK_MATRICES = {
    "query_key_value_kernel": 3,
    "attention_output_kernel": 1,
    "mlp_input_kernel": 1,
    "mlp_output_kernel": 1,
}


def matrices_in(name: str) -> int:
    """Returns how many of the blocks' matrices stand side by side in a variable, by its name or path.

    None in tables, norms, biases and ALGPT2's linear layers.

    Example:
        >>> matrices_in("block_00/query_key_value_kernel"), matrices_in("token_table")
        (3, 0)
    """
    return BLOCK_MATRICES.get(name.rpartition("/")[2], 0)


class WeightSpec(NamedTuple):
    """A variable's shape, and the root mean square of its initial weights (of the real rows of a padded table)."""

    shape: tuple[int, ...]
    rms: float


def weight_specs(config: GPT2Config) -> dict[str, WeightSpec]:
    """Returns the trainable variables by name, as a built model has them, in its order.

    Raises:
        ValueError: the vocabulary size is unknown.
    """
    tables, width = config.table_width, config.width
    specs = {
        "token_table": WeightSpec((config.padded_vocabulary, tables), STANDARD_DEVIATION),
        "position_table": WeightSpec((config.context, tables), STANDARD_DEVIATION),
    }
    if isinstance(config, ALGPT2Config) and config.embedding is not None:
        specs["enter_kernel"] = WeightSpec((tables, width), tables**-0.5)
        specs["enter_bias"] = WeightSpec((width,), 0.0)
        specs["leave_kernel"] = WeightSpec((width, tables), width**-0.5)
        specs["leave_bias"] = WeightSpec((tables,), 0.0)
    specs["final_norm_scale"], specs["final_norm_bias"] = WeightSpec((width,), 1.0), WeightSpec((width,), 0.0)
    for layer in range(config.distinct_blocks):
        specs |= {f"block_{layer:02d}/{name}": value for name, value in _block(config).items()}
    return specs


def _block(config: GPT2Config) -> dict[str, WeightSpec]:
    width, hidden = config.width, MLP_FACTOR * config.width
    residual = STANDARD_DEVIATION / (2 * config.layers) ** 0.5
    specs = {}
    for half, kernels in (
        ("attention", {"query_key_value": (width, 3 * width), "attention_output": (width, width)}),
        ("mlp", {"mlp_input": (width, hidden), "mlp_output": (hidden, width)}),
    ):
        specs[f"{half}_norm_scale"], specs[f"{half}_norm_bias"] = WeightSpec((width,), 1.0), WeightSpec((width,), 0.0)
        for name, shape in kernels.items():
            rms = residual if name.endswith("output") else STANDARD_DEVIATION
            specs[f"{name}_kernel"] = WeightSpec(shape, rms)
            specs[f"{name}_bias"] = WeightSpec(shape[1:], 0.0)
    return specs
