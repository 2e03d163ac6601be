"""The training loop: steps inside one compiled call, then whatever is due: a record, an evaluation, a checkpoint.

``Trainer.fit`` reads from top to bottom. The state is the step number and the variables; the data follows from the
step. So a killed run, started again by the same command, continues from its newest checkpoint.
"""

import math
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import tensorflow as tf

from pipeline.config.batch_plan import BatchPlan
from pipeline.config.train_config import TrainConfig
from pipeline.devices.replicas import strategy_options
from pipeline.errors import WorkFailedError
from pipeline.evaluation.evaluation_step import make_evaluation_step
from pipeline.runs import incidents
from pipeline.runs.checkpoints import Checkpoints
from pipeline.runs.metrics import MetricsWriter, Progress
from pipeline.training.goodput import Clock
from pipeline.training.profile import Profiler
from pipeline.training.step import make_train_step
from pipeline.training.workers import Workers

METRICS = ("loss", "grad_norm", "skipped")


class Trainer:
    """Trains one model on one strategy.

    Args:
        settings: steps, intervals and clipping.
        plan: batch arithmetic for the strategy's replicas.
        model, optimizer: created in the strategy's scope.
        strategy: a tf.distribute strategy; the default one is enough for one replica.
        train_data: step -> distributed dataset whose first element is that step's batch.
        validation_data: () -> distributed dataset over the whole validation part; None skips evaluation.
        validation_bytes: UTF-8 bytes of the validation text, for bits per byte; None, if not all of the text is scored,
            leaves bits per byte out.
        checkpoints: where the state is saved.
        metrics: where figures are written.
        after_evaluation: called with the step and the figures of each whole evaluation.
        incident_log: where skipped updates are written.
        profiler: traces the requested steps.
        watching: context manager for every call that waits for the devices, given its kind and whether the first such
            call compiles; reports a call that does not return.
        workers: the processes that train together.
        flops_per_token: model FLOPs, forward and backward.
        peak_flops: peak of all devices together, in FLOP/s; None leaves MFU out.
    """

    def __init__(
        self,
        *,
        settings: TrainConfig,
        plan: BatchPlan,
        model: Any,
        optimizer: Any,
        strategy: tf.distribute.Strategy,
        train_data: Callable[[int], Any],
        validation_data: Callable[[], Any] | None,
        validation_bytes: int | None,
        checkpoints: Checkpoints,
        metrics: MetricsWriter,
        after_evaluation: Callable[[int, dict[str, float]], None],
        incident_log: incidents.IncidentLog,
        profiler: Profiler,
        watching: Callable[..., AbstractContextManager[None]],
        workers: Workers,
        flops_per_token: float,
        peak_flops: float | None,
    ):
        self._settings, self._plan, self._strategy = settings, plan, strategy
        self._model, self._optimizer = model, optimizer
        self._train_data, self._validation_data = train_data, validation_data
        self._validation_bytes = validation_bytes
        self._checkpoints, self._metrics, self._incidents = checkpoints, metrics, incident_log
        self._after_evaluation, self._profiler, self._watching = after_evaluation, profiler, watching
        self._workers = workers
        self._paths = [variable.path for variable in model.trainable_variables]
        self._flops_per_token, self._peak_flops = flops_per_token, peak_flops
        self.stop = threading.Event()  # set: the run ends after the current loop of steps or evaluation
        self._skipped_in_a_row = 0
        self.clock = Clock()
        self.record: dict[str, Any] = {}  # newest figures, also saved with each checkpoint
        self._timed_tokens, self._timed_seconds = 0, 0.0  # of this process, after compiling
        step_options = strategy_options(strategy)
        self._train_step = make_train_step(
            model,
            optimizer,
            plan,
            clip_norm=settings.clip_norm,
            skip_loss_above=settings.skip_loss_above,
            seed=settings.seed,
            **step_options,
        )
        self._evaluation_step = make_evaluation_step(model, **step_options)

    def fit(self, start_step: int) -> bool:
        """Trains from ``start_step`` to the last step; returns False when ``stop`` ended the run before that."""
        settings, step = self._settings, start_step
        progress = Progress(settings.steps)
        if step < settings.steps:
            with self.clock.spent_on("compile"), self._watching("the first step", compiles=True):
                batches = iter(self._train_data(step))
                # One real step, so that later rates exclude compiling.
                history = self._run_steps(batches, tf.constant(1)).numpy()
            step += 1
            self._after_steps(step, history, progress)
            self._profiler.after(step)
        while step < settings.steps and not self._must_stop():
            count = self._steps_until_something_is_due(step)
            began = time.perf_counter()
            with self.clock.spent_on("step"), self._watching("a loop of steps"):
                history = self._run_steps(batches, tf.constant(count)).numpy()
            seconds, tokens = time.perf_counter() - began, count * self._plan.tokens_per_step
            self.clock.move(float(history[:, -1].sum()), "step", "input_wait")
            self._timed_tokens, self._timed_seconds = self._timed_tokens + tokens, self._timed_seconds + seconds
            step += count
            self._after_steps(step, history, progress, tokens_per_s=tokens / seconds)
            self._profiler.after(step)
        self._profiler.close()
        self._save(step)
        with self.clock.spent_on("checkpoint"), self._watching("writing the last checkpoint"):
            self._checkpoints.wait()
        if step < settings.steps or self._must_stop():  # a signal may have cut the last evaluation short
            progress.note(f"stopped by a signal; step {step:,} is saved, and the same command continues from there")
            return False
        return True

    def speed(self) -> dict[str, float | None]:
        """Returns tokens per second over all steps after compiling, and MFU."""
        if not self._timed_tokens:  # the run resumed after its last step
            return {"tokens_per_second": self.record["tokens_per_s"], "mfu": self.record["mfu"]}
        rate = self._timed_tokens / self._timed_seconds
        share = rate * self._flops_per_token / self._peak_flops if self._peak_flops else None
        return {"tokens_per_second": rate, "mfu": share}

    def validation(self) -> dict[str, float]:
        """Returns the figures of the last step's evaluation, evaluating now if it was not due; {} without data."""
        figures = {
            name.removeprefix("validation."): value for name, value in self.record.items() if "validation." in name
        }
        if not figures and self._validation_data:
            figures = self.evaluate()
            self._note_evaluation(self.record["step"], figures)
        return figures

    def evaluate(self) -> dict[str, float]:
        """Scores the whole validation part; returns its figures, or {} if a signal ended it early."""
        assert self._validation_data is not None
        nll = tokens = 0.0
        with self.clock.spent_on("evaluation"), self._watching("an evaluation", compiles=True):
            for batch in self._validation_data():
                batch_nll, batch_tokens = self._run_evaluation(batch)
                nll, tokens = nll + float(batch_nll), tokens + float(batch_tokens)
                if self._agreed_to_stop():
                    return {}
        figures = {"nats_per_token": nll / tokens, "perplexity": math.exp(min(nll / tokens, 700.0)), "tokens": tokens}
        if self._validation_bytes:
            figures["bits_per_byte"] = nll / math.log(2) / self._validation_bytes
        return figures

    def _must_stop(self) -> bool:
        with self._watching("waiting for the other workers"):  # which may be writing a checkpoint or a sample
            return self._agreed_to_stop()

    def _agreed_to_stop(self) -> bool:
        """Whether this process, or another worker, has been told to stop."""
        agreed = self._workers.any(self.stop.is_set())
        if agreed:
            self.stop.set()
        return agreed  # not the flag: a signal during the call would stop only this process

    def _note_evaluation(self, step: int, figures: dict[str, float]) -> None:
        with self.clock.spent_on("evaluation"), self._watching("what follows an evaluation", compiles=True):
            self._after_evaluation(step, figures)

    @tf.function
    def _run_steps(self, batches, count):
        """Runs ``count`` optimizer steps.

        Returns:
            float32 [count, columns]: METRICS, each variable's gradient norm, and the seconds of input wait.
        """
        rows = tf.TensorArray(tf.float32, size=count, element_shape=[len(METRICS) + len(self._paths) + 1])
        for i in tf.range(count):
            asked = tf.timestamp()
            batch = next(batches)
            waited = tf.cast(tf.timestamp() - asked, tf.float32)
            result = self._strategy.run(self._train_step, args=(batch,))
            scalars = tf.stack([self._one(result[name]) for name in METRICS])
            rows = rows.write(i, tf.concat([scalars, self._one(result["gradient_norms"]), [waited]], axis=0))
        return rows.stack()

    @tf.function
    def _run_evaluation(self, batch):
        return [self._one(value) for value in self._strategy.run(self._evaluation_step, args=(batch,))]

    def _one(self, per_replica):
        """Returns one replica's value of what is equal on all replicas."""
        return self._strategy.experimental_local_results(per_replica)[0]

    def _after_steps(self, step: int, history: Any, progress: Progress, tokens_per_s: float | None = None) -> None:
        settings, plan = self._settings, self._plan
        loss, norm = float(history[:, 0].mean()), float(history[:, 1].mean())
        mfu = tokens_per_s * self._flops_per_token / self._peak_flops if tokens_per_s and self._peak_flops else None
        self.record = {
            "step": step,
            "tokens": step * plan.tokens_per_step,
            "loss": loss,
            "learning_rate": self._last_rate(history),
            "grad_norm": norm,
            "skipped": int(history[:, 2].sum()),
            "tokens_per_s": tokens_per_s or self.record.get("tokens_per_s"),
            "mfu": mfu or self.record.get("mfu"),
        }
        if settings.evaluate_every and step % settings.evaluate_every == 0 and self._validation_data:
            result = self.evaluate()
            if result:
                self.record |= {f"validation.{name}": value for name, value in result.items()}
                progress.note(f"step {step:,}: validation {result['nats_per_token']:.4f} nats per token")
                self._note_evaluation(step, result)
        self.record |= {f"seconds.{part}": round(seconds, 3) for part, seconds in self.clock.seconds().items()}
        self._metrics.write(self.record | {"tokens_per_s": tokens_per_s, "mfu": mfu})  # of these steps, or left out
        rate = (
            f"{tokens_per_s:,.0f} tokens/s" if tokens_per_s else f"compiled in {self.clock.seconds()['compile']:.0f} s"
        )
        share = f"  {mfu:.0%} of peak" if mfu else ""
        progress.show(step, f"loss {loss:.4f}  grad norm {norm:.3f}  {rate}{share}")
        self._record_incidents(step - len(history), history, progress)
        if step % settings.checkpoint_every == 0 and step < settings.steps:
            self._save(step)

    def _last_rate(self, history: Any) -> float:
        """Returns the learning rate of the last step, or the rate that it would have had if it was skipped."""
        updated = not history[-1, METRICS.index("skipped")]
        return self._optimizer.rate_after(int(tf.convert_to_tensor(self._optimizer.iterations)) - updated)

    def _record_incidents(self, before: int, history: Any, progress: Progress) -> None:
        """Writes skipped updates; too many in a row end the run. ``before`` is the number of earlier steps."""
        for step, row in enumerate(history, start=before + 1):
            skipped = bool(row[METRICS.index("skipped")])
            self._skipped_in_a_row = self._skipped_in_a_row + 1 if skipped else 0
            if not skipped:
                continue
            incident = self._incidents.write(
                step=step,
                global_batch=self._plan.global_batch,
                loss=float(row[METRICS.index("loss")]),
                grad_norm=float(row[METRICS.index("grad_norm")]),
                threshold=self._settings.skip_loss_above,
                gradient_norms=incidents.named_norms(self._paths, row[len(METRICS) : -1]),
            )
            progress.note(f"step {step:,}: update skipped, {incident['reason']}; see {incidents.FILE_NAME}")
            if self._skipped_in_a_row >= self._settings.max_skipped_steps:
                raise WorkFailedError(
                    f"{self._skipped_in_a_row} updates in a row were skipped, to step {step:,} ({incident['reason']}); "
                    "they changed no weights. Lower the learning rate or lengthen the warm-up; "
                    "python -m tools.replay shows the records"
                )

    def _save(self, step: int) -> None:
        with self.clock.spent_on("checkpoint"), self._watching("a checkpoint"):
            self._checkpoints.save(step, {"record": self.record, "seconds": self.clock.seconds()})

    def _steps_until_something_is_due(self, step: int) -> int:
        settings = self._settings
        intervals = [settings.steps_per_loop, settings.checkpoint_every, settings.evaluate_every]
        due = [every - step % every for every in intervals if every]
        return min(settings.steps - step, *due, *self._profiler.steps_until_change(step))
