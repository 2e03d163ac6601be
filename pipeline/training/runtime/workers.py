"""Agreement between the processes of one run: when to stop, and where to start."""

import tensorflow as tf

from pipeline.errors import UserError


class Workers:
    """The processes that train together; all of them must call every method, in the same order.

    Args:
        strategy: over all their devices.
        count: of processes; with one, nothing is communicated.
        index: of this process; 0 is the chief, the only one that writes.
    """

    def __init__(self, strategy: tf.distribute.Strategy, count: int, index: int):
        self._strategy, self._count, self.index = strategy, count, index

    @property
    def is_chief(self) -> bool:
        """Whether this process writes the run's results."""
        return self.index == 0

    def any(self, flag: bool) -> bool:
        """Returns whether the flag is true in any process."""
        return flag if self._count == 1 else float(self._sum(tf.constant([float(flag)], tf.float64))[0]) > 0

    def barrier(self) -> None:
        """Blocks until all processes arrive."""
        self.any(False)

    def check_same_start(self, step: int, run_dir: str) -> None:
        """Raises UserError, in all processes, if they found different checkpoints."""
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
