"""``pipeline.train --preflight``: the step is compiled for the slice before anything is connected to.

tools.preflight does it, in a process of its own and with the same gin files, so that the compiler and what it needs of
memory are gone when the training begins.
"""

import subprocess
import sys
from collections.abc import Sequence

from pipeline.config import gin_reader
from pipeline.devices import slices
from pipeline.errors import UserError, WorkFailedError


def require_fit(
    devices: slices.DevicePlan,
    gin_files: Sequence[str],
    gin_params: Sequence[str],
    vocabulary: tuple[str, int] | None = None,
) -> None:
    """Compiles the step that these gin files describe, prints what tools.preflight prints, and returns if it fits.

    Args:
        vocabulary: the model's name and the vocabulary size that the data's manifest gives it; None: GPT-2's.

    Raises:
        UserError: ``--tpu`` names no slice, whose compiler would be asked.
        WorkFailedError: it does not fit, or could not be compiled.
    """
    if devices.slice is None:
        raise UserError("--preflight compiles for a TPU slice, and --tpu names none; expected one such as --tpu=v3-8")
    flags = [f"--gin_file={name}" for name in gin_files] + [f"--gin_param={value}" for value in gin_params]
    flags += slices.as_flags(devices.slice)
    if vocabulary:
        flags.append(f"--gin_param={gin_reader.MODELS[vocabulary[0]]}.vocabulary_size={vocabulary[1]}")
    command = [sys.executable, "-m", "tools.preflight", *flags]
    code = subprocess.run(command, check=False).returncode
    if code == 2:  # it has said why
        sys.exit(code)
    if code:
        raise WorkFailedError(f"the preflight for {devices.slice.name} ended with {code}, so nothing was started")
