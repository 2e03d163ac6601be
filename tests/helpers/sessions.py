"""Sessions and trainers over a small data set, on any strategy."""

import contextlib
import dataclasses

from pipeline.config import batch_plan
from pipeline.config.train_config import TrainConfig
from pipeline.runs.run_directory import RunDirectory
from pipeline.training.session import Session
from tests.helpers.shards import CONTEXT, write_data

SIZE = {"layers": 1, "heads": 2, "width": 32, "context": CONTEXT, "vocabulary_size": 50_000}
MICROBATCH = 2


def session_on(connection, directory, model_config, optimizer_config, *, accumulation=1, **settings):
    """Returns a run in ``directory``/run over a small data set of 32 shards beside it; it validates on the first."""
    data = write_data(directory, shards=32, count=32 * 40)
    first = data.part.shards[0]
    data.manifest.parts["validation"] = dataclasses.replace(data.part, records=first.records, shards=(first,))
    train = TrainConfig(
        model="gpt2",
        optimizer="adamw",
        global_batch=connection.replicas * accumulation * MICROBATCH,
        microbatch=MICROBATCH,
        **{"steps": 100, "warmup_steps": 10, **settings},
    )
    plan = batch_plan.plan(
        global_batch=train.global_batch, replicas=connection.replicas, microbatch=MICROBATCH, context=CONTEXT
    )
    return Session(
        configuration="",
        settings=train,
        model_config=model_config,
        optimizer_config=optimizer_config,
        plan=plan,
        manifest=data.manifest,
        data=data.path,
        connection=connection,
        directory=RunDirectory(str(directory / "run")),
    )


def trainer_of(session, checkpoints=None, metrics=None, tokenizer=None):
    """Returns the session's trainer, as ``Session.run`` makes it."""
    return session.trainer(session.state(), checkpoints, metrics, tokenizer)


def hook_of(trainer, kind):
    """Returns the trainer's only hook of a class."""
    (hook,) = (hook for hook in trainer.hooks if isinstance(hook, kind))
    return hook


class Watch:
    """Replaces the heartbeat."""

    def __init__(self, hosts):
        self.hosts, self.now, self.kinds = hosts, None, []

    @contextlib.contextmanager
    def watching(self, kind, *, compiles=False):
        assert self.now is None, "the heartbeat watches one call at a time"
        self.now = kind
        self.kinds.append((kind, compiles))
        yield
        self.now = None

    @contextlib.contextmanager
    def guarded(self, lost):
        yield
