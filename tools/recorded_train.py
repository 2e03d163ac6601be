"""pipeline.train with a witness: writes down a hash of every row of tokens it reads, and can be killed at a step.

    python -m tools.recorded_train --rows_file=FILE [--kill_at=STEP] <flags of pipeline.train>

For tools.resume_proof and the tests. The witness numbers elements as they leave the input pipeline, from the step that
the run says it starts at; so a start that is off by one shows, whatever the elements themselves claim to be.
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


def witness(path: str) -> None:
    """From now on, train_dataset appends a line for each element: its step and a digest of each of its rows."""
    import tensorflow as tf

    from pipeline.data.reading import datasets

    plain, lock = datasets.train_dataset, threading.Lock()

    def train_dataset(*arguments: Any, start_step: int, replicas: int, **options: Any) -> tf.data.Dataset:
        def note(number: np.ndarray, tokens: np.ndarray) -> np.ndarray:
            digests = [hashlib.sha256(row.tobytes()).hexdigest()[:24] for row in tokens]
            line = json.dumps({"step": start_step + int(number) // replicas, "process": os.getpid(), "rows": digests})
            with lock, open(path, "a", encoding="utf-8") as file:
                file.write(line + "\n")
            return tokens

        def noted(number: tf.Tensor, element: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            tokens = tf.numpy_function(note, [number, element["tokens"]], tf.int32, stateful=True)
            return {**element, "tokens": tf.ensure_shape(tokens, element["tokens"].shape)}

        dataset = plain(*arguments, start_step=start_step, replicas=replicas, **options)
        return dataset.enumerate().map(noted)

    datasets.train_dataset = train_dataset


def kill_at(step: int) -> None:
    """Kills this process with SIGKILL once ``step`` is recorded and the checkpoints due before it are committed."""
    from pipeline.config.train_config import TrainConfig
    from pipeline.runs import checkpoint_files
    from pipeline.runs.metrics import MetricsWriter

    plain = MetricsWriter.write

    def write(self: MetricsWriter, record: dict[str, Any]) -> None:
        plain(self, record)
        if record["step"] >= step:
            from pipeline.config import gin_reader

            every = gin_reader.get(TrainConfig).checkpoint_every
            due, folder = (step - 1) // every * every, f"{FLAGS.run_dir}/checkpoints"
            deadline = time.monotonic() + 60
            while due and due not in checkpoint_files.steps(folder) and time.monotonic() < deadline:
                time.sleep(0.02)
            os.kill(os.getpid(), signal.SIGKILL)

    MetricsWriter.write = write  # type: ignore[method-assign]


def main() -> int:
    cli.import_tensorflow()
    witness(FLAGS.rows_file)
    if FLAGS.kill_at:
        kill_at(FLAGS.kill_at)
    return train.main()


if __name__ == "__main__":
    train.define_flags()
    cli.define_path("rows_file", None, "Where the digests go.")
    flags.mark_flag_as_required("rows_file")
    flags.DEFINE_integer("kill_at", None, "The step at which the process kills itself.")
    cli.run(main)
