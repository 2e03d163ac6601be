"""A profile of chosen steps in ``tensorboard/``, which TensorBoard's Profile page shows.

The page comes with `pip install tensorboard-plugin-profile`. A profile covers only this process's host and its own CPU,
GPU or TPU cores. For a slice at a grpc:// address it covers only the host; use TensorBoard's "Capture profile" for the
slice's cores.
"""

import tensorflow as tf

from pipeline.training.hooks import Hook, StepInfo


class Profiler(Hook):
    """Traces the training steps i … j, with the host's work around them.

    Args:
        directory: TensorBoard's.
        steps: (i, j), from 1; None profiles nothing. A run that resumes after step j profiles nothing more.
    """

    def __init__(self, directory: str, steps: tuple[int, int] | None):
        self._directory = directory
        self._before, self._last = (steps[0] - 1, steps[1]) if steps else (0, 0)
        self.on = False

    def steps_until_due(self, step: int) -> list[int]:
        """Ends a loop where the profile starts or ends."""
        return [bound - step for bound in (self._before, self._last) if bound > step]

    def after_steps(self, info: StepInfo) -> None:
        """Starts or ends the trace when due."""
        if not self.on and self._before <= info.step < self._last:
            tf.profiler.experimental.start(self._directory)
            self.on = True
        elif self.on and info.step >= self._last:
            self.close()

    def close(self) -> None:
        """Ends and writes a running trace."""
        if self.on:
            tf.profiler.experimental.stop()
            self.on = False
