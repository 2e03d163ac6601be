"""``pipeline.train --preflight``: compiles the step for the slice before connecting to anything."""

from models.config import GPT2Config
from pipeline.config.train_config import TrainConfig
from pipeline.devices.slices import Slice
from pipeline.errors import UserError, WorkFailedError
from pipeline.optimizers.config import OptimizerConfig
from pipeline.preflight import compile_step, tpu_compiler


def require_fit(settings: TrainConfig, model: GPT2Config, optimizer: OptimizerConfig, piece: Slice | None) -> None:
    """Compiles the steps of a run, prints what tools.preflight prints, and returns if they fit.

    Args:
        settings: the run's.
        model: the run's; without a vocabulary size it gets GPT-2's.
        optimizer: the run's settings of it.
        piece: the slice of the run.

    Raises:
        UserError: the run is not on a slice, its number of steps depends on data, or the compiler is not installed.
        WorkFailedError: it does not fit, or could not be compiled.
    """
    if piece is None:
        raise UserError("--preflight compiles for a TPU slice, and --tpu names none; expected one such as --tpu=v3-8")
    compile_step.require_steps(settings)
    tpu_compiler.require_compiler()
    model = compile_step.with_vocabulary(model)
    if not compile_step.report_fit(settings, model, optimizer, piece)["fits"]:
        raise WorkFailedError(f"the step does not fit {piece.name}, so nothing was started")
