"""Reading speed: this pipeline, nanoGPT's memmap sampling and int64 TFRecords, in turns on the same machine.

All contenders make batches of 512 sequences of 1,025 tokens, ready for the step, from 2 GB in the page cache. They take
turns, and each one's best turn counts: other work on the machine can only slow a turn down.
"""

import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import google_crc32c
import numpy as np
import tensorflow as tf

from pipeline.data.format import records
from pipeline.data.format.manifest import Corpus, Manifest, Part, Record, Shard, Tokenizer
from pipeline.data.reading import datasets

BATCH, CONTEXT, VOCABULARY = 512, 1024, 50_257
SHARDS, RECORDS = 256, 3_908  # per shard: 2.09 GB in all
INT64_RECORDS = 20_480  # the usual format takes 3 to 6 KB per sequence; read repeatedly
TURNS, TURN_SECONDS = 5, 2.5


def run() -> dict[str, float]:
    """Measures, prints a table and returns the figures: Mtok/s, ratios and the seconds to a first batch."""
    with tempfile.TemporaryDirectory(prefix="bench-read-") as folder:
        directory = pathlib.Path(folder)
        manifest = _write(directory)
        contenders: dict[str, Callable[[], Iterator[Any]]] = {
            "this pipeline": lambda: iter(_train(directory, manifest)),
            "nanoGPT's memmap": lambda: _nanogpt(directory / "train.bin"),
            "int64 TFRecords": lambda: iter(_int64(directory / "int64.tfrecord", None)),
            "int64 TFRecords, parsed in parallel": lambda: iter(_int64(directory / "int64.tfrecord", tf.data.AUTOTUNE)),
        }
        speed, processor = _speeds(contenders)
        first = _seconds_to_first_batch(directory, manifest)
    ours = speed["this pipeline"]
    figures = {
        "mtok_per_s": ours,
        "nanogpt_mtok_per_s": speed["nanoGPT's memmap"],
        "int64_records_mtok_per_s": max(value for name, value in speed.items() if name.startswith("int64")),
        "cost_of_checks": _crc32c_microseconds() / processor["this pipeline"],
        "first_batch_seconds_at_step_0": first[0],
        "first_batch_seconds_at_last_step": first[1],
    }
    figures["ratio_to_nanogpt"] = ours / figures["nanogpt_mtok_per_s"]
    figures["ratio_to_int64_records"] = ours / figures["int64_records_mtok_per_s"]
    for name, value in speed.items():
        print(
            f"  {name:<38} {value:7.1f} Mtok/s   {processor[name]:6.2f} processor µs per record   {ours / value:5.1f}×"
        )
    print(f"  the checksums of every record take {figures['cost_of_checks']:.1%} of our processor time")
    print(f"  first batch: {first[0]:.2f} s at step 0, {first[1]:.2f} s at the last step of 2 GB")
    return {name: round(value, 4) for name, value in figures.items()}


def _speeds(contenders: dict[str, Callable[[], Iterator[Any]]]) -> tuple[dict[str, float], dict[str, float]]:
    """Returns the best Mtok/s and the least processor µs per record of each contender."""
    running = {name: make() for name, make in contenders.items()}
    for batches in running.values():
        for _ in range(20):
            next(batches)
    speed, processor = dict.fromkeys(contenders, 0.0), dict.fromkeys(contenders, float("inf"))
    for _ in range(TURNS):
        for name, batches in running.items():
            next(batches)  # data read ahead while others ran
            start, busy, count = time.perf_counter(), time.process_time(), 0
            while time.perf_counter() - start < TURN_SECONDS:
                next(batches)
                count += 1
            seconds = time.perf_counter() - start
            speed[name] = max(speed[name], count * BATCH * CONTEXT / seconds / 1e6)
            processor[name] = min(processor[name], (time.process_time() - busy) / count / BATCH * 1e6)
    return speed, processor


def _crc32c_microseconds() -> float:
    """Returns the processor time for one record's crc32c, by the processor's instruction; the best of five."""
    record, turns = bytes(records.record_bytes(CONTEXT)), []
    for _ in range(5):
        start = time.process_time()
        for _ in range(20_000):
            google_crc32c.value(record)
        turns.append((time.process_time() - start) / 20_000 * 1e6)
    return min(turns)


def _seconds_to_first_batch(directory: pathlib.Path, manifest: Manifest) -> tuple[float, float]:
    """Returns the medians at step 0 and at the first pass's last full batch, measured in turns."""
    seconds: dict[int, list[float]] = {0: [], SHARDS * RECORDS // BATCH - 1: []}
    for _ in range(7):
        for step, measured in seconds.items():
            start = time.perf_counter()
            next(iter(_train(directory, manifest, start_step=step)))
            measured.append(time.perf_counter() - start)
    first, last = (statistics.median(measured) for measured in seconds.values())
    return first, last


def _train(directory: pathlib.Path, manifest: Manifest, start_step: int = 0) -> tf.data.Dataset:
    return datasets.train_dataset(
        str(directory), manifest, seed=0, global_batch=BATCH, context=CONTEXT, start_step=start_step, replicas=1
    )


def _nanogpt(path: pathlib.Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Does what nanoGPT's get_batch does: a new memmap per batch, a random window per sequence, int64."""
    generator = np.random.default_rng(0)
    while True:
        data = np.memmap(path, np.uint16, mode="r")
        places = generator.integers(0, len(data) - CONTEXT, BATCH)
        x = np.stack([data[i : i + CONTEXT].astype(np.int64) for i in places])
        y = np.stack([data[i + 1 : i + 1 + CONTEXT].astype(np.int64) for i in places])
        yield x, y


def _int64(path: pathlib.Path, parallel: int | None) -> tf.data.Dataset:
    """The usual TFRecord pipeline: int64 features ``inputs`` and ``labels``, parsed one by one and shuffled."""
    features = {name: tf.io.FixedLenFeature([CONTEXT], tf.int64) for name in ("inputs", "labels")}
    parsed = (
        tf.data.TFRecordDataset(str(path))
        .repeat()
        .map(lambda example: tf.io.parse_single_example(example, features), num_parallel_calls=parallel)
    )
    return parsed.shuffle(1024).batch(BATCH).prefetch(tf.data.AUTOTUNE)


def _write(directory: pathlib.Path) -> Manifest:
    """Writes the same random tokens in our format and nanoGPT's, and fewer as int64 TFRecords."""
    generator = np.random.default_rng(0)
    shards = []
    with open(directory / "train.bin", "wb") as flat:
        for number in range(SHARDS):
            tokens = generator.integers(0, VOCABULARY, (RECORDS, CONTEXT + 1), dtype=np.uint16)
            flat.write(tokens[:, :-1].tobytes())
            data = records.encode(tokens)
            name = f"train-{number:05d}-of-{SHARDS:05d}.tfrecord"
            data.tofile(directory / name)
            shards.append(Shard(file=name, records=RECORDS, bytes=data.nbytes, crc32c=""))
    with tf.io.TFRecordWriter(str(directory / "int64.tfrecord")) as writer:
        for row in generator.integers(0, VOCABULARY, (INT64_RECORDS, CONTEXT + 1)):
            feature = {
                name: tf.train.Feature(int64_list=tf.train.Int64List(value=ids))
                for name, ids in (("inputs", row[:-1]), ("labels", row[1:]))
            }
            writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
    count = SHARDS * RECORDS
    text: dict = {"documents": 1, "utf8_bytes": 1, "words": 1, "word_rule": "whitespace"}
    part = Part(tokens=count * CONTEXT + 1, records=count, tail=(0,), shards=tuple(shards), **text)
    return Manifest(
        corpus=Corpus(name="random", fingerprint="", listing="", seed=0, order="source"),
        tokenizer=Tokenizer(name="none", fingerprint="", vocabulary_size=VOCABULARY, end_of_text=VOCABULARY - 1),
        record=Record(context=CONTEXT, bytes=records.record_bytes(CONTEXT)),
        parts={"train": part},
    )
