"""Chooses how attention is computed: by the fused TPU kernels, or by plain TensorFlow ops. Imports neither library."""

from typing import NamedTuple

from models import kernel_shapes
from models.config import GPT2Config
from pipeline.config.train_config import TrainConfig
from pipeline.devices.slices import Slice
from pipeline.devices.wheels import installed, pip_install_jax
from pipeline.errors import UserError

KERNEL_GENERATIONS = ("v4", "v5e", "v5p", "v6e")  # no Mosaic kernel compiles for v2 and v3


class AttentionPath(NamedTuple):
    """The choice, and a sentence that says why."""

    name: str  # "fused" or "plain"
    reason: str


def choose(settings: TrainConfig, model: GPT2Config, piece: Slice | None, *, elsewhere: bool = False) -> AttentionPath:
    """Returns a run's attention path.

    Args:
        settings: of the run.
        model: of the run.
        piece: the slice; None for other devices.
        elsewhere: another machine may do the training, so a jax that is missing here is no error.

    Raises:
        UserError: ``train.attention = 'fused'`` where the kernels cannot be used.
    """
    if settings.attention == "plain":
        return AttentionPath("plain", "train.attention = 'plain'")
    refusal, missing = _refusal(settings, model, piece), ""
    if not refusal and installed("jax") is None:
        missing = f"jax, which writes the fused kernels, is not installed: {pip_install_jax()}"
        refusal = None if elsewhere else missing
    if refusal and settings.attention == "fused":
        raise UserError(f"train.attention = 'fused': {refusal}; expected 'plain' or 'auto'")
    if refusal or piece is None:
        return AttentionPath("plain", refusal or "")
    reason = f"{piece.generation}, context {model.context:,}, heads {model.head_width} wide"
    return AttentionPath("fused", f"{reason}; it takes jax, which is not installed here" if missing else reason)


def _refusal(settings: TrainConfig, model: GPT2Config, piece: Slice | None) -> str | None:
    if piece is None:
        return "the fused kernels are for TPUs"
    if piece.generation not in KERNEL_GENERATIONS:
        return f"{piece.generation} takes no fused kernels; {', '.join(KERNEL_GENERATIONS)} do"
    if settings.compute_dtype != "bfloat16":
        return f"train.compute_dtype = {settings.compute_dtype!r}: the fused kernels take 'bfloat16'"
    return kernel_shapes.refusal(model)
