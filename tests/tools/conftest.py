"""A small committed data set of real text, and the flags of a run small enough to be started many times."""

import os
import pydoc_data.topics
import subprocess

import numpy as np
import pytest

from pipeline.data.format import manifest as manifests
from pipeline.data.format import records
from pipeline.data.format.tokenizer import train as train_tokenizer
from tests.helpers.made_up_study import write_cell
from tests.helpers.places import ROOT
from tools.study import running

CONTEXT, SHARDS = 64, 4
BY_ADAFACTOR = (
    "--gin_file=quickstart.gin",
    "--gin_param=ALGPT2.layers=1",
    "--gin_param=ALGPT2.heads=2",
    "--gin_param=ALGPT2.width=16",
    "--gin_param=ALGPT2.embedding=8",
    "--gin_param=ALGPT2.context=32",
    "--gin_param=train.global_batch=8",
    "--gin_param=train.microbatch=2",
    "--gin_param=train.warmup_steps=2",
    "--gin_param=train.evaluate_every=0",
    "--gin_param=train.sample_prompt=''",
    "--gin_param=train.wandb='off'",
)
# A run starts in three quarters of the time with it.
SGD = ("--gin_param=train.optimizer='sgd'", "--gin_param=SGD.learning_rate=0.3", "--gin_param=SGD.momentum=0.9")


@pytest.fixture(scope="session")
def small_data(tmp_path_factory):
    """Directory of 4 shards of 64-token records and their manifest; there is no validation part."""
    directory = tmp_path_factory.mktemp("data")
    texts = list(pydoc_data.topics.topics.values())[:30]
    tokenizer = train_tokenizer(texts, 300, "small")
    ids = np.concatenate([[*tokenizer.encode(text), tokenizer.end_of_text] for text in texts]).astype(np.uint16)
    count = (len(ids) - 1) // CONTEXT
    rows = np.stack([ids[i * CONTEXT : (i + 1) * CONTEXT + 1] for i in range(count)])
    shards = []
    for number, block in enumerate(np.array_split(rows, SHARDS)):
        name, data = f"train-{number:05d}-of-{SHARDS:05d}.tfrecord", records.encode(block).tobytes()
        (directory / name).write_bytes(data)
        shards.append(manifests.Shard(file=name, records=len(block), bytes=len(data), crc32c="00000000"))
    part = manifests.Part(
        documents=len(texts),
        tokens=len(ids),
        records=count,
        tail=tuple(int(i) for i in ids[count * CONTEXT :]),
        utf8_bytes=sum(len(text.encode()) for text in texts),
        words=sum(len(text.split()) for text in texts),
        word_rule="whitespace",
        shards=tuple(shards),
    )
    manifest = manifests.Manifest(
        corpus=manifests.Corpus(name="topics", fingerprint="f", listing="l", seed=0, order="source"),
        tokenizer=manifests.Tokenizer(
            name="small",
            fingerprint=tokenizer.fingerprint,
            vocabulary_size=tokenizer.vocabulary_size,
            end_of_text=tokenizer.end_of_text,
        ),
        record=manifests.Record(context=CONTEXT, bytes=records.record_bytes(CONTEXT)),
        parts={"train": part},
    )
    (directory / manifests.TOKENIZER_FILE).write_bytes(tokenizer.data)
    (directory / manifests.FILE_NAME).write_text(manifest.dumps())
    return directory


@pytest.fixture(scope="session")
def run_flags():
    """Flags of a small run by gradient descent, without its data, directory, steps and topology."""
    return (*BY_ADAFACTOR, *SGD)


@pytest.fixture(scope="session")
def adafactor_flags():
    """Flags of such a run by Adafactor, the optimizer that users get."""
    return BY_ADAFACTOR


@pytest.fixture(scope="session")
def project_root():
    """The directory from which ``python -m`` finds the project's modules."""
    return ROOT


@pytest.fixture
def start_process(project_root):
    """Starts a command from the project's root, its output in one pipe; processes left at the end are killed."""
    processes = []

    def run(command, **environment):
        process = subprocess.Popen(
            command,
            cwd=project_root,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        processes.append(process)
        return process

    yield run
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
def cells_that_end(monkeypatch):
    """Cells of the study end at once with their made-up losses; returns the cells that ran."""
    ran = []

    def run_cells(folder, cells, workers):
        for cell in cells:
            write_cell(folder, cell)
            ran.append(cell)

    monkeypatch.setattr(running, "run_cells", run_cells)
    return ran
