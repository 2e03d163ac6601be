r"""Runs pipeline.train, records a hash of every row of tokens that it reads, and can kill the process at a step.

    python -m tools.recorded_train --rows_file=FILE [--kill_at=STEP] \
        <flags of pipeline.train>

For tools.resume_proof and the tests. Elements are numbered as they leave the input pipeline, from the step at which the
run says it starts. So an off-by-one start shows, whatever index the elements themselves carry.
"""

import hashlib
import json
import os
import signal
import threading
import time
from typing import Any

import numpy as np
from absl import flags

from pipeline import cli, train

FLAGS = flags.FLAGS


def record_rows(path: str) -> None:
    """Makes train_dataset append a line per element to ``path``: its step and a digest of each row."""
    import tensorflow as tf

    from pipeline.data.reading import datasets

    original, lock = datasets.train_dataset, threading.Lock()

    def train_dataset(*arguments: Any, start_step: int, replicas: int, **options: Any) -> tf.data.Dataset:
        def append(number: np.ndarray, tokens: np.ndarray) -> np.ndarray:
            digests = [hashlib.sha256(row.tobytes()).hexdigest()[:24] for row in tokens]
            line = json.dumps({"step": start_step + int(number) // replicas, "process": os.getpid(), "rows": digests})
            with lock, open(path, "a", encoding="utf-8") as file:
                file.write(line + "\n")
            return tokens

        def recorded(number: tf.Tensor, element: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            tokens = tf.numpy_function(append, [number, element["tokens"]], tf.int32, stateful=True)
            return {**element, "tokens": tf.ensure_shape(tokens, element["tokens"].shape)}

        dataset = original(*arguments, start_step=start_step, replicas=replicas, **options)
        return dataset.enumerate().map(recorded)

    datasets.train_dataset = train_dataset


def kill_at(step: int) -> None:
    """Kills this process with SIGKILL once ``step`` is recorded and the checkpoints due before it are committed."""
    from pipeline.config.train_config import TrainConfig
    from pipeline.runs import checkpoint_files
    from pipeline.runs.metrics_writer import MetricsWriter

    original = MetricsWriter.write

    def write(self: MetricsWriter, *records: dict[str, Any]) -> None:
        original(self, *records)
        if records[-1]["step"] >= step:
            from pipeline.config import gin_reader

            every = gin_reader.load(FLAGS.gin_file, FLAGS.gin_param).get(TrainConfig).checkpoint_every
            due, folder = (step - 1) // every * every, f"{FLAGS.run_dir}/checkpoints"
            deadline = time.monotonic() + 60
            while due and due not in checkpoint_files.steps(folder) and time.monotonic() < deadline:
                time.sleep(0.02)
            os.kill(os.getpid(), signal.SIGKILL)

    MetricsWriter.write = write  # type: ignore[method-assign]


def main() -> int:
    """Trains as pipeline.train does, and records."""
    rows_file = cli.required("rows_file", "a file for the digests")
    cli.import_tensorflow()
    record_rows(rows_file)
    if FLAGS.kill_at:
        kill_at(FLAGS.kill_at)
    return train.main()


def define_flags() -> None:
    """Defines the flags."""
    train.define_flags()
    cli.define_path("rows_file", None, "The file for the digests.")
    flags.DEFINE_integer("kill_at", None, "The step at which the process kills itself.")


if __name__ == "__main__":
    cli.run(main, define_flags)
