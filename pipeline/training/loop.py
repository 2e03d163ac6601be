"""The training loop: steps inside one compiled call, then the hooks.

``Trainer.fit`` reads from top to bottom. The state is the step number and the variables; the step determines the data.
So the same command resumes a killed run from its newest checkpoint.
"""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.devices.replicas import strategy_options
from pipeline.training.hooks import METRICS, Hook, StepInfo
from pipeline.training.runtime import Data, Run, Runtime, State
from pipeline.training.step import make_train_step


class Trainer:
    """Trains one model on one strategy, from the state's step to the run's last."""

    def __init__(self, run: Run, state: State, data: Data, runtime: Runtime, hooks: Sequence[Hook]):
        self.run, self.state, self.data, self.runtime, self.hooks = run, state, data, runtime, hooks
        self._columns = len(METRICS) + len(state.model.trainable_variables) + 1
        self._train_step = make_train_step(
            state.model,
            state.optimizer,
            run.plan,
            clip_norm=run.settings.clip_norm,
            skip_loss_above=run.settings.skip_loss_above,
            seed=run.settings.seed,
            **strategy_options(runtime.strategy),
        )

    def fit(self) -> bool:
        """Trains to the last step; returns False if the runtime's ``stop`` ended the run before that."""
        state, runtime, last = self.state, self.runtime, self.run.settings.steps
        if state.step < last:
            with runtime.timed("compile", "the first step", compiles=True):
                batches = iter(self.data.train(state.step))
                # Run one real step, so that later rates exclude compiling.
                history = self._run_steps(batches, tf.constant(1)).numpy()
            self._after_steps(history, seconds=None)
        while state.step < last and not self._must_stop():
            count = self._steps_until_something_is_due()
            began = time.perf_counter()
            with runtime.timed("step", "a loop of steps"):
                history = self._run_steps(batches, tf.constant(count)).numpy()
            seconds = time.perf_counter() - began
            runtime.clock.move(float(history[:, -1].sum()), "step", "input_wait")
            self._after_steps(history, seconds)
        for hook in reversed(self.hooks):
            hook.close()
        return state.step >= last and not self._must_stop()  # a signal may have cut the last evaluation short

    def summary(self) -> dict[str, Any]:
        """Returns the hooks' entries of ``summary.json``, and the clock's."""
        entries = {name: value for hook in self.hooks for name, value in hook.summary().items()}
        clock = self.runtime.clock
        return entries | {"seconds": clock.rounded(), "goodput": round(clock.goodput(), 4)}

    def _must_stop(self) -> bool:
        with self.runtime.watching("waiting for the other workers"):  # which may be writing a checkpoint or a sample
            return self.runtime.agreed_to_stop()

    def _after_steps(self, history: np.ndarray, seconds: float | None) -> None:
        self.state.step += len(history)
        info = StepInfo(self.state.step, history, seconds)
        for hook in self.hooks:
            hook.after_steps(info)

    def _steps_until_something_is_due(self) -> int:
        step, settings = self.state.step, self.run.settings
        due = [steps for hook in self.hooks for steps in hook.steps_until_due(step)]
        return min(settings.steps - step, settings.steps_per_loop - step % settings.steps_per_loop, *due)

    @tf.function
    def _run_steps(self, batches: Iterator[Any], count: tf.Tensor) -> tf.Tensor:
        """Returns METRICS, each variable's gradient norm and the seconds of input wait, float32 [count, columns]."""
        rows = tf.TensorArray(tf.float32, size=count, element_shape=[self._columns])
        for i in tf.range(count):
            asked = tf.timestamp()
            batch = next(batches)
            waited = tf.cast(tf.timestamp() - asked, tf.float32)
            result = self.runtime.strategy.run(self._train_step, args=(batch,))
            scalars = tf.stack([self.runtime.one(result[name]) for name in METRICS])
            rows = rows.write(i, tf.concat([scalars, self.runtime.one(result["gradient_norms"]), [waited]], axis=0))
        return rows.stack()
