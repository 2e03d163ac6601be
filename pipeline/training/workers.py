"""What the processes of one run agree on: when to stop, and where to start."""

import tensorflow as tf

from pipeline.errors import UserError


class Workers:
    """The processes that train together; every method is called by all of them, in the same order.

    Args:
      strategy: over all their devices.
      count: of processes; with one, nothing is asked.
      index: of this one; 0 is the chief, which alone writes.
    """

    def __init__(self, strategy: tf.distribute.Strategy, count: int, index: int):
        self._strategy, self._count, self.index = strategy, count, index

    @property
    def is_chief(self) -> bool:
        """Whether this process writes what the run leaves behind."""
        return self.index == 0

    def any(self, said: bool) -> bool:
        """Returns whether any of them says so."""
        return said if self._count == 1 else float(self._sum(tf.constant([float(said)], tf.float64))[0]) > 0

    def meet(self) -> None:
        """Returns when all have come here."""
        self.any(False)

    def check_same_start(self, step: int, run_dir: str) -> None:
        """Raises UserError, on all of them, if they have found different checkpoints."""
        if self._count == 1:
            return
        devices, total, squares = self._sum(tf.constant([1.0, step, float(step) ** 2], tf.float64)).numpy()
        if devices * squares != total**2:
            raise UserError(
                f"--run_dir={run_dir}: the workers do not find the same checkpoint there (this one: step {step:,}); "
                "expected a directory that all of them see"
            )

    @tf.function(reduce_retracing=True)
    def _sum(self, values: tf.Tensor) -> tf.Tensor:
        def over_all(own: tf.Tensor) -> tf.Tensor:
            return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(own))

        return self._strategy.experimental_local_results(self._strategy.run(over_all, args=(values,)))[0]
