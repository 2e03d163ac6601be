"""The training run that a command line describes, checked before any slow import, data or connection."""

import dataclasses
import sys
from collections.abc import Sequence

from models.config import GPT2Config
from pipeline import storage
from pipeline.config import batch_plan, gin_reader, pretrained
from pipeline.config.train_config import TrainConfig
from pipeline.data.format import manifest
from pipeline.data.reading import record_order
from pipeline.devices import slices, tpu_target
from pipeline.errors import UserError
from pipeline.gin_files import Configuration
from pipeline.optimizers.config import OptimizerConfig
from pipeline.progress import counted
from pipeline.runs.sinks import wandb


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The run that gin files and ``--tpu`` describe, each part checked against the others."""

    configuration: Configuration = dataclasses.field(compare=False, repr=False)
    settings: TrainConfig
    model: GPT2Config
    optimizer: OptimizerConfig
    target: tpu_target.Target
    plan: batch_plan.BatchPlan

    def provenance(self) -> str:
        """Returns the settings as readable gin text, each with its origin."""
        return self.configuration.provenance(self.settings, self.model, self.optimizer)


def load_run_config(gin_files: Sequence[str], gin_params: Sequence[str], tpu: str | None) -> RunConfig:
    """Returns the run that the arguments describe; UserError if it is invalid. Reads no data, does not connect."""
    configuration = gin_reader.load(gin_files, gin_params)
    settings = configuration.get(TrainConfig)
    model = pretrained.model_config(configuration, settings)
    optimizer = gin_reader.chosen(configuration, gin_reader.OPTIMIZERS, settings.optimizer, "train.optimizer")
    gin_reader.reject_unused_overrides(configuration, TrainConfig, type(model), type(optimizer), slices.Slice)
    if settings.wandb != "off":
        wandb.check_environment()
    target = tpu_target.resolve(place(configuration, tpu))
    target.check_size()
    if target.slice is None and target.hosts > 1 and optimizer.splits_slots(target.replicas):
        raise UserError(
            f"{configuration.name_of(type(optimizer))}.slots='sharded' needs one process, which saves all slots; "
            f"TF_CONFIG names {target.hosts} workers, each of which sees only its own: expected 'replicated'"
        )
    plan = batch_plan.plan(
        global_batch=settings.global_batch,
        replicas=target.replicas,
        microbatch=settings.microbatch,
        context=model.context,
    )
    return RunConfig(
        configuration=configuration, settings=settings, model=model, optimizer=optimizer, target=target, plan=plan
    )


def place(configuration: Configuration, tpu: str | None) -> tpu_target.Place:
    """Returns where a configuration runs: what ``--tpu`` names, else the slice that gin binds."""
    return configuration.get(slices.Slice) if tpu is None and configuration.bound(slices.Slice) else tpu


def note_overridden_slice(configuration: Configuration, tpu: str | None) -> None:
    """Prints a note on stderr if ``--tpu`` overrides a different slice that gin binds."""
    if tpu is None:
        return
    named = tpu_target.resolve(tpu).slice
    for setting, (value, origin) in configuration.bound(slices.Slice).items():
        if named is None or value != getattr(named, setting):
            print(f"note: --tpu={tpu} overrides slice.{setting} = {value!r} ({origin})", file=sys.stderr)
            return


def note_other_models_size(configuration: Configuration, settings: TrainConfig, model: GPT2Config) -> None:
    """Prints a note on stderr if gin sets another model's size, which the chosen model does not have.

    Without it, quickstart.gin with ``train.model='gpt2'`` would silently be a GPT-2 of the default size.
    """
    if settings.pretrained is not None:
        return
    bound = configuration.bound(type(model))
    for other in set(gin_reader.MODELS.values()) - {type(model)}:
        left = {
            setting: origin
            for setting, (value, origin) in configuration.bound(other).items()
            if setting not in bound and getattr(model, setting, value) != value
        }
        if left:
            defaults = ", ".join(f"{setting} = {getattr(model, setting)!r}" for setting in left)
            print(
                f"note: the model is {configuration.name_of(type(model))}, with its defaults {defaults}; "
                f"{next(iter(left.values()))} sets these for {configuration.name_of(other)}",
                file=sys.stderr,
            )


def check_visible(target: tpu_target.Target, **directories: str) -> None:
    """Rejects local directories, given by flag name, if a slice's host is another machine."""
    if target.slice is None or tpu_target.is_here(target.slice):
        return
    for flag, directory in directories.items():
        if not storage.is_remote(directory):
            raise UserError(
                f"--{flag}={directory}: this machine's files cannot be seen by "
                f"{counted(target.hosts, 'host')} of {target.slice.name}; expected gs://…"
            )


def note_distance(target: tpu_target.Target, directory: str) -> None:
    """Prints a note on stderr if a slice reads data from a bucket in another region or in a multi-region."""
    if target.slice is None or not storage.is_remote(directory):
        return
    from pipeline.devices import regions
    from pipeline.storage import gcs

    zone = regions.zone_of_tpu(target.slice.zone)
    location = gcs.location(directory) if zone else None
    if location and (apart := regions.apart(location, zone)):
        print(f"note: the bucket of --data={directory} {apart}", file=sys.stderr)


def check_data(directory: str, run: RunConfig) -> manifest.Manifest:
    """Returns the manifest of ``directory``; UserError for data that does not fit the model, the batch or the hosts."""
    data = manifest.load(directory)
    check_manifest(directory, data, run)
    return data


def check_manifest(directory: str, data: manifest.Manifest, run: RunConfig) -> None:
    """Checks the manifest of ``directory`` against a run, as ``check_data`` does."""
    context, plan = run.plan.context, run.plan
    try:
        data.check(vocabulary_size=run.model.vocabulary_size)
        surface = type(run.model).__name__.removesuffix("Config")
        record_order.check_context(data.record.context, context, f"{surface}.context")
        record_order.check_split(
            data,
            "train",
            hosts=run.target.hosts,
            replicas=plan.replicas,
            global_batch=plan.global_batch,
            context=context,
        )
    except UserError as error:
        raise UserError(f"--data={directory}: {error}") from None


def with_data(run: RunConfig, data: manifest.Manifest) -> RunConfig:
    """Returns the run with the values that its data determines: the vocabulary size, steps and warm-up steps."""
    try:
        settings = run.settings.resolved(data.part("train").records * data.record.context // run.plan.context)
    except ValueError as error:  # the warm-up is longer than the one pass
        raise UserError(f"train: {error}") from None
    model = dataclasses.replace(run.model, vocabulary_size=data.tokenizer.vocabulary_size)
    return dataclasses.replace(run, settings=settings, model=model)
