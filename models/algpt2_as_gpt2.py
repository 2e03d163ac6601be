"""Expands an ALGPT2 into an equivalent plain GPT-2, so that any GPT-2 runtime runs it.

Shapes: V vocabulary, T context, E table width, D width, L layers.
"""

import numpy as np

from models.config import ALGPT2Config

Tensors = dict[str, np.ndarray]


def expanded(tensors: Tensors, config: ALGPT2Config) -> tuple[Tensors, np.ndarray | None, str]:
    """Returns GPT-2's weights, a separate output table if one is needed, and a sentence on exactness.

    The input side is exact: (token + position)·K + b is the sum of two wide tables, the bias in the position's. The
    output side is (n·M + c)·tableᵀ with n the normalized features: the wide table is table·Mᵀ. GPT-2's head has no
    bias, so c joins the final norm's bias as the u with u·M = c. Such a u exists whenever M's E ≤ D columns are
    independent, which they almost always are.

    Args:
        tensors: ALGPT2's weights by plain names, as ``models.pretrained.tensors_of`` gives them.
        config: the ALGPT2's.

    Raises:
        ValueError: there is no such u.
    """
    gpt2 = {name: tensor for name, tensor in tensors.items() if name in ("final_norm_scale", "final_norm_bias")}
    for layer in range(config.layers):
        for name, tensor in tensors.items():
            if name.startswith("block_00/"):
                gpt2[name.replace("block_00", f"block_{layer:02d}")] = tensor
    if config.embedding is None:
        tables = {name: tensors[name] for name in ("token_table", "position_table")}
        return {**gpt2, **tables}, None, "Exact: the shared block is repeated."
    wide = {name: tensor.astype(np.float64) for name, tensor in tensors.items() if not name.startswith("block_")}
    gpt2["token_table"] = wide["token_table"] @ wide["enter_kernel"]
    gpt2["position_table"] = wide["position_table"] @ wide["enter_kernel"] + wide["enter_bias"]
    output, bias = wide["leave_kernel"], wide["leave_bias"]
    shift = np.linalg.lstsq(output.T, bias, rcond=None)[0]
    if not np.allclose(shift @ output, bias, rtol=1e-6, atol=1e-9):
        raise ValueError(
            f"embedding={config.embedding}, width={config.width}: the output layer's bias has no counterpart in GPT-2, "
            "whose head has none; export in the native format"
        )
    gpt2["final_norm_bias"] = wide["final_norm_bias"] + shift
    return (
        gpt2,
        wide["token_table"] @ output.T,
        "Exact up to float32 rounding: block repeated, linear layers multiplied out.",
    )
