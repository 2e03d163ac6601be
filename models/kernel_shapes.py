"""Which shapes the fused attention kernels support. Imports neither TensorFlow nor JAX."""

from typing import NamedTuple

from models.config import ALGPT2Config, GPT2Config

BLOCK = 256  # queries and keys of a square of scores that stays on the core
LONGEST = 8192  # context; the gradient of all of a head's queries stays in the core's memory
HEAD_WIDTHS = range(64, 129, 16)


class Kernels(NamedTuple):
    """StableHLO of the kernels for one shape, as JAX serializes it."""

    forward: bytes
    backward: bytes


def refusal(model: GPT2Config) -> str | None:
    """Returns why the kernels cannot compute this model's attention, or None if they can."""
    surface = "ALGPT2" if isinstance(model, ALGPT2Config) else "GPT2"
    if model.dropout:
        return f"{surface}.dropout = {model.dropout}: the fused kernels have no dropout of the attention weights"
    if model.context % BLOCK or model.context > LONGEST:
        near = min(LONGEST, max(BLOCK, BLOCK * round(model.context / BLOCK)))
        return (
            f"{surface}.context = {model.context}: the fused kernels take multiples of {BLOCK} up to {LONGEST:,}; "
            f"the nearest is {near:,}"
        )
    if model.head_width not in HEAD_WIDTHS:
        return (
            f"{surface}.width = {model.width} and {surface}.heads = {model.heads} make heads {model.head_width} wide: "
            f"the fused kernels take {', '.join(map(str, HEAD_WIDTHS))}"
        )
    return None
