"""A run's fused attention kernels; JAX writes them in a separate process, not shared with TensorFlow."""

import functools
from typing import TYPE_CHECKING

from models.kernel_shapes import Kernels
from pipeline.devices import own_process

if TYPE_CHECKING:
    from models.attention import Attention


def attention(path: str) -> "Attention | None":
    """Returns what ``models.build`` takes: the kernels' attention if the path is "fused", else None."""
    if path != "fused":
        return None
    from models import fused_attention

    return fused_attention.fused(_kernels)


@functools.cache
def _kernels(heads: int, head_width: int, context: int, dtype: str) -> Kernels:
    return own_process.call("the export of the attention kernels", _export, heads, head_width, context, dtype)


def _export(heads: int, head_width: int, context: int, dtype: str) -> Kernels:
    from models import attention_kernels

    return attention_kernels.export_kernels(heads, head_width, context, dtype)
