"""One training run on its data and devices: the part of train.py that needs TensorFlow."""

import contextlib
import dataclasses
import functools
import json
import os
import tempfile
import textwrap
from collections.abc import Callable
from typing import Any

import models
from pipeline import cli
from pipeline.config import gin_reader, pretrained
from pipeline.config.batch_plan import BatchPlan
from pipeline.config.train_config import RESUMABLE_CHANGES, TrainConfig, schedule_of
from pipeline.data.format.manifest import Manifest, read_tokenizer
from pipeline.data.format.tokenizer import Tokenizer
from pipeline.data.reading import datasets
from pipeline.devices import matmul_peak
from pipeline.devices.connect import Connection
from pipeline.devices.heartbeat import Heartbeat
from pipeline.errors import UserError
from pipeline.evaluation import protocol
from pipeline.optimizers.build import build
from pipeline.progress import counted
from pipeline.runs.best_checkpoint import BestCheckpoint
from pipeline.runs.checkpoints import Checkpoints, state_of
from pipeline.runs.incidents import IncidentLog
from pipeline.runs.metrics import MetricsWriter
from pipeline.runs.run_directory import RunDirectory, as_json
from pipeline.runs.samples import Samples, SampleWriter
from pipeline.training.goodput import Clock
from pipeline.training.loop import Trainer
from pipeline.training.preemption import restartable, signals_set
from pipeline.training.profile import Profiler
from pipeline.training.workers import Workers


@dataclasses.dataclass(kw_only=True)
class Session:
    """One run: its configurations, its data and its devices.

    Attributes:
        model_config: with the vocabulary size, from the manifest if gin does not set it.
        plan: batch arithmetic for the connection's replicas.

    Raises:
        UserError: the plan is for a number of replicas other than the connection's.
    """

    settings: TrainConfig
    model_config: Any
    optimizer_config: Any
    plan: BatchPlan
    manifest: Manifest
    data: str
    connection: Connection
    directory: RunDirectory

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
            if not self.workers.is_chief:
                stack.enter_context(
                    contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w", encoding="utf-8")))
                )
            return self._run(stack)

    def _run(self, stack: contextlib.ExitStack) -> int:
        settings, directory, workers = self.settings, self.directory, self.workers
        tokenizer = Tokenizer(self.manifest.tokenizer.name, read_tokenizer(self.data))
        if directory.exists("summary.json"):
            directory.check(self.identity(), RESUMABLE_CHANGES)
            print(f"{directory.path} is done: {settings.steps:,} steps; its results are in summary.json")
            return 0
        with self.connection.strategy.scope():
            model = models.build(self.model_config, compute_dtype=settings.compute_dtype, seed=settings.seed)
            optimizer = build(self.optimizer_config, schedule_of(settings))
            optimizer.build(model.trainable_variables)
        checkpoints = Checkpoints(
            directory.join("checkpoints"),
            state_of(model, optimizer),
            reference={"seed": settings.seed, "data": self.identity()["data"]},
            keep_last=settings.keep_checkpoints,
            keep_every=settings.keep_every,
            writes=workers.is_chief,
        )
        if settings.pretrained is not None and not checkpoints.steps():
            pretrained.check_tokenizer(settings.pretrained, tokenizer)
            pretrained.load_into(model, settings.pretrained)
        stack.enter_context(checkpoints.named_on_disk_faults())
        # All checks have passed; start writing.
        started_before = workers.is_chief and directory.claim(self.identity(), RESUMABLE_CHANGES)
        with self.heartbeat.watching("restoring the newest checkpoint"):
            workers.barrier()
            restored = checkpoints.restore_newest()
            start = restored.step if restored else 0
            workers.check_same_start(start, directory.path)
        if not workers.is_chief:  # its files are discarded
            directory.check(self.identity(), RESUMABLE_CHANGES)
            settings = dataclasses.replace(settings, wandb="off")
            directory = self.directory = RunDirectory(stack.enter_context(tempfile.TemporaryDirectory()))
        operative = gin_reader.provenance(settings, self.model_config, self.optimizer_config)
        directory.write("config.gin", operative)
        directory.write("tokenizer.json", tokenizer.data.decode())
        print(f"{'resumes' if start else 'begins again' if started_before else 'starts'} at step {start:,}")
        print(optimizer_line(optimizer, model.trainable_variables))
        metrics = MetricsWriter(directory, self.identity(), wandb_mode=settings.wandb, resume_step=start)
        metrics.text("configuration", textwrap.indent(operative, "    "), start)
        samples = Samples(directory, metrics, start)
        best = BestCheckpoint(directory, model) if settings.keep_best else None
        writer = None
        if settings.sample_prompt and workers.is_chief:
            on_tpu = self.connection.kind == "tpu"
            writer = SampleWriter(model, tokenizer, settings.sample_prompt, on_host=on_tpu)

        def after_evaluation(step: int, figures: dict[str, float]) -> None:
            if best:
                best.offer(step, figures["nats_per_token"])
            if writer and step < settings.steps:  # the last step's sample is the summary's
                samples.add(step, writer.write())

        trainer = self.trainer(
            model, optimizer, checkpoints, metrics, IncidentLog(directory, start), after_evaluation=after_evaluation
        )
        if restored:
            trainer.record = restored.metadata["record"]
        began = float(directory.read_or_create("began.txt", f"{cli.STARTED:.3f}\n"))
        trainer.clock = Clock(began, restored.metadata.get("seconds") if restored else None)
        signals = stack.enter_context(contextlib.ExitStack())
        signals.enter_context(signals_set(trainer.stop))
        finished = trainer.fit(start)
        summary = None
        if finished:
            signals.close()  # from here a signal ends the process: nothing can be lost, but the rest takes a while
            summary = self.summary(trainer)
            if best:
                summary["best"] = best.record
            if writer:
                with trainer.clock.spent_on("evaluation"), self.heartbeat.watching("the last sample", compiles=True):
                    summary["sample"] = writer.write()
                samples.add(settings.steps, summary["sample"])
            summary["seconds"] = {part: round(seconds, 3) for part, seconds in trainer.clock.seconds().items()}
            summary["goodput"] = round(trainer.clock.goodput(), 4)
            directory.write_json("summary.json", summary)  # last: it marks the run as done
            print(json.dumps(summary, indent=2, ensure_ascii=False))
        metrics.close(summary)
        with self.heartbeat.watching("waiting for the other workers"):
            workers.barrier()
        return 0

    @functools.cached_property
    def workers(self) -> Workers:
        """The processes of this run: one, or those that TF_CONFIG names. A pod has one process for all its hosts."""
        count = self.connection.hosts if self.connection.slice is None else 1
        return Workers(self.connection.strategy, count, self.connection.worker)

    @functools.cached_property
    def heartbeat(self) -> Heartbeat:
        """Watches the hosts of this run while it waits for them."""
        return Heartbeat(self.connection.addresses)

    def identity(self) -> dict[str, dict[str, Any]]:
        """Returns the configuration and data that identify this run."""
        return {
            "train": dataclasses.asdict(self.settings),
            "model": as_json(self.model_config),
            "optimizer": as_json(self.optimizer_config),
            "data": {
                "corpus": self.manifest.corpus.fingerprint,
                "tokenizer": self.manifest.tokenizer.fingerprint,
                "end_of_text": self.manifest.tokenizer.end_of_text,
            },
            "shard": dict(self.manifest.settings),
        }

    def trainer(
        self,
        model: Any,
        optimizer: Any,
        checkpoints: Checkpoints,
        metrics: MetricsWriter,
        incident_log: IncidentLog,
        *,
        after_evaluation: Callable[[int, dict[str, float]], None],
    ) -> Trainer:
        """Returns the trainer of this run, with its data."""
        settings, plan, strategy = self.settings, self.plan, self.connection.strategy
        shared: dict[str, Any] = {"context": plan.context, "replicas": plan.replicas}

        def train_data(step: int) -> Any:
            return strategy.distribute_datasets_from_function(
                lambda host: datasets.train_dataset(
                    self.data,
                    self.manifest,
                    seed=settings.seed,
                    global_batch=plan.global_batch,
                    start_step=step,
                    input_context=host,
                    **shared,
                )
            )

        def validation_data() -> Any:
            return strategy.distribute_datasets_from_function(
                lambda host: datasets.evaluation_dataset(
                    self.data,
                    self.manifest,
                    global_batch=plan.replicas * plan.microbatch,
                    input_context=host,
                    **shared,
                )
            )

        validation = self.manifest.parts.get("validation")
        validates = validation is not None and validation.tokens > 1  # the first token is not a label
        return Trainer(
            settings=settings,
            plan=plan,
            model=model,
            optimizer=optimizer,
            strategy=strategy,
            train_data=train_data,
            validation_data=validation_data if validates else None,
            validation_bytes=validation.utf8_bytes if validation and self.manifest.record.scores_all_text else None,
            checkpoints=checkpoints,
            metrics=metrics,
            after_evaluation=after_evaluation,
            incident_log=incident_log,
            profiler=Profiler(self.directory.join("tensorboard"), settings.profile_steps),
            watching=self.heartbeat.watching,
            workers=self.workers,
            flops_per_token=self.model_config.flops_per_token(plan.context),
            peak_flops=self.peak_flops(),
        )

    def peak_flops(self) -> float:
        """Returns the peak of all devices in FLOP/s: a slice's stated peak, or a matrix multiply measured here."""
        if self.connection.slice:
            return self.connection.slice.cores * self.connection.slice.peak_tflops_per_core * 1e12
        return matmul_peak.measure() * (self.plan.replicas if self.connection.kind == "gpu" else self.connection.hosts)

    def summary(self, trainer: Trainer) -> dict[str, Any]:
        """Returns the run's final figures."""
        record, validation = trainer.record, trainer.validation()
        if validation and not self.manifest.record.scores_all_text:
            validation = protocol.for_line_packing(validation) | {"left_out": protocol.LEFT_OUT}
        return {
            "parameters": self.model_config.parameters(),
            "steps": record["step"],
            "tokens_seen": record["tokens"],
            "train": {"nats_per_token": record["loss"], **trainer.speed()},
            "validation": validation,
        }


def optimizer_line(optimizer: Any, variables: list[Any]) -> str:
    """Returns a line with the slots' bytes and the effective learning rates at the schedule's highest point."""
    rates = optimizer.effective_rates(variables)
    least = min(rates, key=rates.__getitem__)
    highest = max(rates.values())
    down_to = f", down to {rates[least]:.1e} of {least}" if rates[least] < highest else ""
    slots = f"optimizer slots {optimizer.slot_bytes() / 2**20:,.1f} MiB per replica"
    return f"{slots}; effective learning rate {highest:.1e}{down_to}"
