"""The loss of the whole validation part, every ``train.evaluate_every`` steps and for the summary."""

import math
from typing import Any

import tensorflow as tf

from pipeline.devices.replicas import strategy_options
from pipeline.evaluation import comparability
from pipeline.evaluation.evaluation_step import make_evaluation_step
from pipeline.training.hooks import Hook, StepInfo, until_multiple
from pipeline.training.runtime import Data, Run, Runtime, State

PREFIX = "validation."


class Evaluation(Hook):
    """Adds ``validation.NAME`` to the record of a loop after which an evaluation is due."""

    def __init__(self, run: Run, state: State, data: Data, runtime: Runtime):
        self._every = run.settings.evaluate_every
        self._state, self._data, self._runtime = state, data, runtime
        self._step = make_evaluation_step(state.model, **strategy_options(runtime.strategy))

    def steps_until_due(self, step: int) -> list[int]:
        """Ends a loop where an evaluation is due."""
        return until_multiple(step, self._every)

    def after_steps(self, info: StepInfo) -> None:
        """Evaluates if due, if there is data."""
        due = self._every and info.step % self._every == 0 and self._data.validation
        if due and (figures := self.evaluate()):
            loss = figures["nats_per_token"]
            self._runtime.progress.note(f"step {info.step:,}: validation {loss:.4f} nats per token")

    def evaluate(self) -> dict[str, float]:
        """Scores the whole validation part; records and returns its figures, or {} if a signal ended it early."""
        assert self._data.validation is not None
        nll = tokens = 0.0
        with self._runtime.timed("evaluation", "an evaluation", compiles=True):
            for batch in self._data.validation():
                batch_nll, batch_tokens = self.run_step(batch)
                nll, tokens = nll + float(batch_nll), tokens + float(batch_tokens)
                if self._runtime.agreed_to_stop():
                    return {}
        figures = {"nats_per_token": nll / tokens, "perplexity": math.exp(min(nll / tokens, 700.0)), "tokens": tokens}
        if self._data.validation_bytes:
            figures["bits_per_byte"] = nll / math.log(2) / self._data.validation_bytes
        self._state.record |= {f"{PREFIX}{name}": value for name, value in figures.items()}
        return figures

    @tf.function
    def run_step(self, batch: Any) -> list[tf.Tensor]:
        """Returns the summed nats and the tokens scored of a distributed batch."""
        return [self._runtime.one(value) for value in self._runtime.strategy.run(self._step, args=(batch,))]

    def summary(self) -> dict[str, Any]:
        """Returns the figures of the last step's evaluation, evaluating now if it was not due; {} without data."""
        record = self._state.record
        figures = {name.removeprefix(PREFIX): value for name, value in record.items() if name.startswith(PREFIX)}
        if not figures and self._data.validation:
            figures = self.evaluate()
        if figures and self._data.validation_bytes is None:
            return {"validation": comparability.for_line_packing(figures) | {"left_out": comparability.LEFT_OUT}}
        return {"validation": figures}
