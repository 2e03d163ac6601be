"""Writes a run's figures: to the terminal, metrics.jsonl, TensorBoard, and Weights & Biases if it is on.

``metrics.jsonl`` has one JSON object per line, written after each loop of ``train.steps_per_loop`` steps:

    step                     optimizer steps done
    tokens                   tokens trained on so far
    loss                     nats per token: mean over the loop's steps
    learning_rate            of the last step's update
    grad_norm                global norm before clipping: mean over the loop's steps
    skipped                  updates skipped in this loop (incidents.jsonl says which)
    tokens_per_s             over the loop; left out for a process's first step, most of which is compiling
    mfu                      model FLOPs as a share (0 … 1) of the devices' peak; left out there too, and if no peak is
                             known
    seconds.PART             of the run so far, by the parts of goodput.py, whose sum is the wall clock since the run's
                             first start
    validation.NAME          if an evaluation was due: nats_per_token, perplexity, tokens (scored), and bits_per_byte,
                             except for line-packed data, whose text is not scored completely

Steps ascend and appear once: lines that a killed process wrote after its last checkpoint are replaced. ``loss`` and
``grad_norm`` can be NaN or Infinity, as Python's json writes them. TensorBoard and Weights & Biases get the same
figures under the same names (TensorBoard: ``seconds/PART`` and ``validation/NAME``).

``summary.json`` is written last and marks the run as done: parameters, steps, tokens_seen, train (nats_per_token,
tokens_per_second, mfu: of the last process, without its compiling), validation (as above; {} without
data), seconds (by part), goodput (the share of ``step``), best (step, nats_per_token; with ``train.keep_best``) and
sample (with ``train.sample_prompt``).
"""

import contextlib
import json
import shutil
import sys
import time
from typing import Any, TextIO

import tensorflow as tf
from tensorflow.compat.v1 import Event, SessionLog

from pipeline.devices.connect import on_this_machine
from pipeline.runs.run_directory import RunDirectory
from pipeline.runs.sinks import wandb


class MetricsWriter:
    """Writes each record once to every sink; a resumed run appends to the existing records.

    Args:
        directory: the run's.
        configuration: shown in Weights & Biases.
        wandb_mode: ``'auto'`` (online if a key is known and the server answers), ``'offline'`` or ``'off'``.
        resume_step: records after this step are dropped from ``metrics.jsonl``: their steps run again. Weights & Biases
            keeps its records of them, since it cannot delete any; the repeated figures are the same.
    """

    def __init__(self, directory: RunDirectory, configuration: dict[str, Any], *, wandb_mode: str, resume_step: int):
        self._path = directory.join("metrics.jsonl")
        self._local = "://" not in self._path
        self._resume_step, self._last_step = resume_step, 0
        self._records = self._records_until(resume_step)
        directory.write("metrics.jsonl", _lines(self._records))  # atomically: it is the run's history
        with on_this_machine():
            self._events = tf.summary.create_file_writer(directory.join("tensorboard"))
            self._start_events(resume_step + 1)
        self._wandb = wandb.start(directory, configuration, wandb_mode)

    def write(self, record: dict[str, Any]) -> None:
        """Appends a flat record with ``step``; values that are None are left out."""
        record = {key: value for key, value in record.items() if value is not None}
        self._records.append(json.dumps(record))
        if self._local:
            self._write("a", self._records[-1:])
        else:  # objects cannot be appended to; one record per loop makes this cheap enough
            self._write("w", self._records)
        numbers = {key: value for key, value in record.items() if isinstance(value, int | float)}
        with on_this_machine(), self._events.as_default(step=record["step"]):
            for name, value in numbers.items():
                if name != "step":
                    tf.summary.scalar(name.replace(".", "/", 1), value)
        self._events.flush()
        self._log_to_wandb(numbers, record["step"])

    def text(self, name: str, text: str, step: int) -> None:
        """Records a sample of text in TensorBoard and Weights & Biases."""
        with on_this_machine(), self._events.as_default(step=step):
            tf.summary.text(name, text)
        self._events.flush()
        self._log_to_wandb({name: text}, step)

    def close(self, summary: dict[str, Any] | None = None) -> None:
        self._events.close()
        if self._wandb:
            self._wandb.summary.update(summary or {})
            self._wandb.finish()

    def _records_until(self, resume_step: int) -> list[str]:
        if not tf.io.gfile.exists(self._path):
            return []
        records = []
        for line in tf.io.gfile.GFile(self._path).read().splitlines():
            with contextlib.suppress(ValueError):  # a kill may have cut the last line
                step = json.loads(line)["step"]
                self._last_step = max(self._last_step, step)
                if step <= resume_step:
                    records.append(line)
        return records

    def _log_to_wandb(self, values: dict[str, Any], step: int) -> None:
        repeated = self._resume_step < step <= self._last_step
        if self._wandb and not repeated:
            self._wandb.log(values, step=step)

    def _start_events(self, step: int) -> None:
        """Makes TensorBoard discard a killed process's events of this and later steps, which run again.

        It reads the first such event of a directory as the start, and each later one as a restart.
        """
        started = SessionLog(status=SessionLog.START)
        event = Event(wall_time=time.time(), step=step, session_log=started).SerializeToString()
        tf.raw_ops.ImportEvent(writer=self._events._resource, event=event)

    def _write(self, mode: str, lines: list[str]) -> None:
        with tf.io.gfile.GFile(self._path, mode) as file:
            file.write(_lines(lines))


def _lines(lines: list[str]) -> str:
    return "".join(line + "\n" for line in lines)


class Progress:
    """One line of progress: rewritten in place on a terminal, a plain line elsewhere.

    The time left is computed from the rate since the first line, so that compiling does not count.
    """

    def __init__(self, total: int, stream: TextIO | None = None):
        self._stream = stream or sys.stdout
        self._total, self._first = total, (0, 0.0)
        self._tty = self._stream.isatty()
        self._open = False

    def show(self, done: int, text: str) -> None:
        """Shows ``text`` with the share done and the time left."""
        now = time.monotonic()
        first_done, first_time = self._first = self._first if self._first[1] else (done, now)
        left = ""
        if done > first_done:
            left = f"  {_clock((now - first_time) / (done - first_done) * (self._total - done))} left"
        head = f"step {done:,}/{self._total:,}  "
        if self._tty:  # a line that wraps could not be rewritten, so the end of the text is cut
            text = text[: max(0, shutil.get_terminal_size().columns - 1 - len(head) - len(left))]
        self._stream.write(f"\r\x1b[2K{head}{text}{left}" if self._tty else f"{head}{text}{left}\n")
        self._stream.flush()
        self._open = self._tty

    def note(self, text: str) -> None:
        """Prints a line that stays."""
        self._stream.write(f"\r\x1b[2K{text}\n" if self._open else f"{text}\n")
        self._stream.flush()
        self._open = False


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
