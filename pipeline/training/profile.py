"""A profile of chosen steps in ``tensorboard/``, which TensorBoard's Profile page shows.

The page comes with `pip install tensorboard-plugin-profile`. A profile is of what this process sees: its host, and the
CPU, GPU or TPU cores that are its own. Of a slice at a grpc:// address it has the host's part only; TensorBoard's
"Capture profile" takes its cores.
"""

import tensorflow as tf


class Profiler:
    """Traces the training steps i … j, each with what surrounds it on the host.

    Args:
      directory: TensorBoard's.
      steps: (i, j), from 1; None profiles nothing. A run that goes on after step j profiles nothing more.
    """

    def __init__(self, directory: str, steps: tuple[int, int] | None):
        self._directory = directory
        self._before, self._last = (steps[0] - 1, steps[1]) if steps else (0, 0)
        self.on = False

    def steps_until_change(self, step: int) -> list[int]:
        """Returns how many steps may run after ``step`` before the profile starts or ends."""
        return [bound - step for bound in (self._before, self._last) if bound > step]

    def after(self, step: int) -> None:
        """Starts or ends the trace where that is due after ``step``."""
        if not self.on and self._before <= step < self._last:
            tf.profiler.experimental.start(self._directory)
            self.on = True
        elif self.on and step >= self._last:
            self.close()

    def close(self) -> None:
        """Writes what has been traced."""
        if self.on:
            tf.profiler.experimental.stop()
            self.on = False
