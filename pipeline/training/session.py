"""One training run on its data and devices: the part of train.py that needs TensorFlow."""

import contextlib
import dataclasses
import functools
import itertools
import json
import os
import tempfile
import textwrap
from collections.abc import Callable
from typing import Any

import models
from models.config import GPT2Config
from pipeline import cli
from pipeline.config import attention_path, pretrained
from pipeline.config.batch_plan import BatchPlan
from pipeline.config.train_config import RESUMABLE_CHANGES, TrainConfig, schedule_of
from pipeline.data.format.manifest import Manifest, read_tokenizer
from pipeline.data.format.tokenizer import Tokenizer
from pipeline.data.reading import datasets
from pipeline.devices import ending_notice, fused_kernels, matmul_peak
from pipeline.devices.connect import Connection
from pipeline.devices.heartbeat import Heartbeat
from pipeline.errors import UserError, WorkerLostError
from pipeline.optimizers.build import build
from pipeline.optimizers.config import OptimizerConfig
from pipeline.progress import Progress, counted
from pipeline.report.write import REPORT, write_report
from pipeline.runs import starts
from pipeline.runs.checkpoints import Checkpoints, state_of
from pipeline.runs.metrics_writer import MetricsWriter
from pipeline.runs.run_directory import RunDirectory, as_json, with_present_names
from pipeline.runs.samples import SampleWriter
from pipeline.stop_signals import set_by_signals
from pipeline.training.hooks import Hook
from pipeline.training.hooks.best import KeepBest
from pipeline.training.hooks.checkpoint import SaveCheckpoints
from pipeline.training.hooks.evaluation import Evaluation
from pipeline.training.hooks.incidents import WriteIncidents
from pipeline.training.hooks.profile import Profiler
from pipeline.training.hooks.progress import ShowProgress
from pipeline.training.hooks.samples import WriteSamples
from pipeline.training.hooks.training_record import TrainingRecord
from pipeline.training.hooks.write_metrics import WriteMetrics
from pipeline.training.loop import Trainer
from pipeline.training.lost_workers import restartable
from pipeline.training.runtime import Data, Run, Runtime, State
from pipeline.training.runtime.goodput import Clock
from pipeline.training.runtime.peak import Peak
from pipeline.training.runtime.workers import Workers

WRITING_SECONDS = 300.0  # to finish writing a checkpoint after a worker was lost


@dataclasses.dataclass(kw_only=True)
class Session:
    """One run: its configurations, its data and its devices.

    Attributes:
        model_config: with the vocabulary size, from the manifest if gin does not set it.
        plan: batch arithmetic for the connection's replicas.

    Raises:
        UserError: the plan's number of replicas is not the connection's.
    """

    configuration: str  # as readable gin text
    settings: TrainConfig
    model_config: GPT2Config
    optimizer_config: OptimizerConfig
    plan: BatchPlan
    manifest: Manifest
    data: str
    connection: Connection
    directory: RunDirectory
    _finish_writing: Callable[[], None] = dataclasses.field(default=lambda: None, init=False, repr=False)

    def __post_init__(self) -> None:
        planned, actual = self.plan.replicas, self.connection.replicas
        if planned != actual:
            raise UserError(
                f"the batch was planned for {counted(planned, 'replica')}, and TensorFlow has {actual} "
                f"({self.connection.kind}): fewer or more devices than --tpu or this machine's device files say"
            )

    def run(self) -> int:
        """Trains to the last step, evaluates and writes ``summary.json``; returns the exit code."""
        with restartable(), contextlib.ExitStack() as stack:
            stack.enter_context(self.heartbeat.guarded(self._end_lost))
            if not self.workers.is_chief:
                nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
                stack.enter_context(contextlib.redirect_stdout(nowhere))
            return self._run(stack)

    def _run(self, stack: contextlib.ExitStack) -> int:
        settings, directory = self.settings, self.directory
        tokenizer = Tokenizer(self.manifest.tokenizer.name, read_tokenizer(self.data))
        if directory.exists("summary.json"):
            directory.check(self.identity(), RESUMABLE_CHANGES)
            print(f"{directory.path} is done: {settings.steps:,} steps; its results are in summary.json")
            if self.workers.is_chief and not directory.exists(REPORT):  # a kill came in between
                write_report(directory)
            return 0
        state = self.state()
        checkpoints = self._checkpoints(state)
        self._finish_writing = lambda: checkpoints.finish(WRITING_SECONDS)
        stack.callback(self._finish_writing)
        if settings.pretrained is not None and not checkpoints.steps():
            pretrained.check_tokenizer(settings.pretrained, tokenizer)
            pretrained.load_into(state.model, settings.pretrained)
        stack.enter_context(checkpoints.named_on_disk_faults())
        # All checks have passed; start writing.
        started_before = self.workers.is_chief and directory.claim(self.identity(), RESUMABLE_CHANGES)
        seconds = self._restore(state, checkpoints)
        if not self.workers.is_chief:  # its files are discarded
            directory.check(self.identity(), RESUMABLE_CHANGES)
            self.settings = dataclasses.replace(settings, wandb="off")
            self.directory = RunDirectory(stack.enter_context(tempfile.TemporaryDirectory()))
        print(f"{'resumes' if state.step else 'begins again' if started_before else 'starts'} at step {state.step:,}")
        print(f"attention {self.attention.name}: {self.attention.reason}")
        print(state.optimizer.in_words(state.model.trainable_variables))
        metrics = self._metrics(state.step, tokenizer)
        trainer = self.trainer(state, checkpoints, metrics, tokenizer)
        began = float(self.directory.read_or_create("began.txt", f"{cli.STARTED:.3f}\n"))
        trainer.runtime.clock = Clock(began, seconds)
        signals = stack.enter_context(contextlib.ExitStack())
        signals.enter_context(set_by_signals(trainer.runtime.stop))
        signals.enter_context(ending_notice.watched(trainer.runtime.stop_for))
        summary = notice = None
        if trainer.fit():
            signals.close()  # from here a signal ends the process: nothing can be lost, and the rest takes a while
            trainer.runtime.stop.clear()  # a signal since the last step would cut the closing evaluation short
            summary = {"parameters": self.model_config.parameters(), **trainer.summary()}
            self.directory.write_json("summary.json", summary)  # it marks the run as done
            if self.workers.is_chief and write_report(self.directory):
                print(f"wrote {self.directory.join(REPORT)}")
            print(json.dumps(summary, indent=2, ensure_ascii=False))
        else:
            notice = self._notice(trainer)
        metrics.close(summary)
        with self.heartbeat.watching("waiting for the other workers"):
            self.workers.barrier()
        if notice:
            raise WorkerLostError(f"{notice}; step {state.step:,} is saved")
        return 0

    def _end_lost(self, reason: str) -> None:
        self._finish_writing()
        cli.end_lost(reason)

    def _notice(self, trainer: Trainer) -> str | None:
        """Returns what announced a machine's end and stopped the run; None, and prints a line, for a signal."""
        with self.heartbeat.watching("waiting for the other workers"):
            notice = trainer.runtime.agreed_notice()
        if notice is None:
            trainer.runtime.progress.note(
                f"stopped by a signal; step {trainer.state.step:,} is saved, and the same command continues from there"
            )
        return notice

    def state(self) -> State:
        """Returns the model and its optimizer, new, on the connection's devices."""
        settings, kernels = self.settings, fused_kernels.attention(self.attention.name)
        with self.connection.strategy.scope():
            model = models.build(
                self.model_config, compute_dtype=settings.compute_dtype, seed=settings.seed, attention=kernels
            )
            optimizer = build(self.optimizer_config, schedule_of(settings))
            optimizer.build(model.trainable_variables)
        return State(model=model, optimizer=optimizer)

    def _checkpoints(self, state: State) -> Checkpoints:
        return Checkpoints(
            self.directory.join("checkpoints"),
            state_of(state.model, state.optimizer),
            reference={"seed": self.settings.seed, "data": self.identity()["data"]},
            keep_last=self.settings.keep_checkpoints,
            keep_every=self.settings.keep_every,
            writes=self.workers.is_chief,
        )

    def _restore(self, state: State, checkpoints: Checkpoints) -> dict[str, float] | None:
        """Restores the newest checkpoint in all processes; returns the seconds spent up to it, or None without one."""
        with self.heartbeat.watching("restoring the newest checkpoint"):
            self.workers.barrier()
            restored = checkpoints.restore_newest()
            state.step = restored.step if restored else 0
            self.workers.check_same_start(state.step, self.directory.path)
        if restored is None:
            return None
        state.record = with_present_names(restored.metadata["record"])
        return restored.metadata.get("seconds")

    def _metrics(self, start: int, tokenizer: Tokenizer) -> MetricsWriter:
        """Writes the configuration and the tokenizer, and opens the sinks."""
        self.directory.write("config.gin", self.configuration)
        self.directory.write("tokenizer.json", tokenizer.data.decode())
        part = self.manifest.parts.get("train")
        facts = {"step": start, "devices": self.connection.describe(), "attention": self.attention.name}
        facts |= {"data": self.data, "corpus": self.manifest.corpus.name, "train_tokens": part.tokens if part else None}
        starts.add(self.directory, **facts)
        metrics = MetricsWriter(self.directory, self.identity(), wandb_mode=self.settings.wandb, resume_step=start)
        metrics.text("configuration", textwrap.indent(self.configuration, "    "), start)
        return metrics

    @functools.cached_property
    def attention(self) -> attention_path.AttentionPath:
        """How attention is computed, and why."""
        return attention_path.choose(self.settings, self.model_config, self.connection.slice)

    @functools.cached_property
    def workers(self) -> Workers:
        """The processes of this run: one (also for all hosts of a pod), or those that TF_CONFIG names."""
        count = self.connection.hosts if self.connection.slice is None else 1
        return Workers(self.connection.strategy, count, self.connection.worker)

    @functools.cached_property
    def heartbeat(self) -> Heartbeat:
        """Watches the hosts of this run while it waits for them."""
        return Heartbeat(self.connection.addresses)

    def identity(self) -> dict[str, dict[str, Any]]:
        """Returns the configuration and data that identify this run."""
        return {
            "train": dataclasses.asdict(self.settings) | {"attention": self.attention.name},
            "model": as_json(self.model_config),
            "optimizer": as_json(self.optimizer_config),
            "data": {
                "corpus": self.manifest.corpus.fingerprint,
                "tokenizer": self.manifest.tokenizer.fingerprint,
                "end_of_text": self.manifest.tokenizer.end_of_text,
            },
            "shard": dict(self.manifest.settings),
        }

    def trainer(self, state: State, checkpoints: Checkpoints, metrics: MetricsWriter, tokenizer: Tokenizer) -> Trainer:
        """Returns the trainer of this run, with its data and the hooks that the settings ask for."""
        flops = self.model_config.flops_per_token(self.plan.context)
        run = Run(settings=self.settings, plan=self.plan, flops_per_token=flops, peak=self.peak())
        runtime = Runtime(
            strategy=self.connection.strategy,
            workers=self.workers,
            watching=self.heartbeat.watching,
            progress=Progress(self.settings.steps),
        )
        data = self._batches()
        hooks: list[Hook] = [TrainingRecord(run, state), Evaluation(run, state, data, runtime)]
        if self.settings.keep_best:
            hooks.append(KeepBest(state, runtime, self.directory))
        hooks.append(WriteMetrics(state, runtime, metrics))  # before a text of the same step: W&B's steps must ascend
        if self.settings.sample_prompt and self.workers.is_chief:
            on_tpu = self.connection.kind == "tpu"
            writer = SampleWriter(state.model, tokenizer, self.settings.sample_prompt, on_host=on_tpu)
            hooks.append(WriteSamples(run, state, runtime, self.directory, metrics, writer))
        hooks += [
            ShowProgress(state, runtime),
            WriteIncidents(run, state, runtime, self.directory),
            SaveCheckpoints(run, state, runtime, checkpoints, metrics),
            Profiler(self.directory.join("tensorboard"), self.settings.profile_steps),
        ]
        return Trainer(run, state, data, runtime, hooks)

    def _batches(self) -> Data:
        plan = self.plan

        def distributed(make: Callable[..., Any], **options: Any) -> Any:
            options |= {"context": plan.context, "replicas": plan.replicas}
            return self.connection.strategy.distribute_datasets_from_function(
                lambda host: make(self.data, self.manifest, input_context=host, **options)
            )

        def train(step: int) -> Any:
            seed, batch = self.settings.seed, plan.global_batch
            return distributed(datasets.train_dataset, seed=seed, global_batch=batch, start_step=step)

        def validation() -> Any:
            batch = plan.replicas * plan.microbatch
            steps = datasets.evaluation_steps(self.manifest, global_batch=batch, context=plan.context)
            return itertools.islice(distributed(datasets.evaluation_dataset, global_batch=batch), steps)

        part = self.manifest.parts.get("validation")
        return Data(
            train=train,
            validation=validation if part and part.tokens > 1 else None,  # the first token is not a label
            validation_bytes=part.utf8_bytes if part and self.manifest.record.scores_all_text else None,
        )

    def peak(self) -> Peak:
        """Returns the peak of all devices: a slice's stated peak, or a matrix multiply measured here."""
        if self.connection.slice:
            return Peak(self.connection.slice.cores * self.connection.slice.specs.peak_tflops * 1e12)

        def measure() -> float:
            if self.connection.kind == "gpu":  # has separate units for bfloat16; a matrix this large keeps it busy
                return self.plan.replicas * matmul_peak.measure(8192, dtype=self.settings.compute_dtype)
            return self.connection.hosts * matmul_peak.measure()

        return Peak(measure(), measure)
