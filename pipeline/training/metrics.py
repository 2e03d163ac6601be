"""Where a run's figures go: the terminal, metrics.jsonl, TensorBoard, and Weights & Biases when it is wanted."""

import contextlib
import json
import os
import sys
import time
from typing import Any, TextIO

import tensorflow as tf

from pipeline.training.run_directory import RunDirectory


class MetricsWriter:
    """Writes each record once to every sink; a resumed run appends to what it finds.

    Args:
      directory: the run's.
      configuration: shown to Weights & Biases.
      wandb_mode: ``'auto'`` (online when a key is known, else offline), ``'offline'`` or ``'off'``.
      resume_step: records after this step are dropped from ``metrics.jsonl``: their steps run again.
    """

    def __init__(self, directory: RunDirectory, configuration: dict[str, Any], *, wandb_mode: str, resume_step: int):
        self._path = directory.join("metrics.jsonl")
        self._local = "://" not in self._path
        self._records = self._kept(resume_step)
        self._write("w", self._records)
        self._events = tf.summary.create_file_writer(directory.join("tensorboard"))
        self._wandb = _start_wandb(directory, configuration, wandb_mode)

    def write(self, record: dict[str, Any]) -> None:
        """Appends a flat record with ``step``; values that are None are left out."""
        record = {key: value for key, value in record.items() if value is not None}
        self._records.append(json.dumps(record))
        if self._local:
            self._write("a", self._records[-1:])
        else:  # objects cannot be appended to; a record a loop makes this cheap enough
            self._write("w", self._records)
        numbers = {key: value for key, value in record.items() if isinstance(value, int | float)}
        with self._events.as_default(step=record["step"]):
            for name, value in numbers.items():
                if name != "step":
                    tf.summary.scalar(name.replace(".", "/", 1), value)
        self._events.flush()
        if self._wandb:
            self._wandb.log(numbers, step=record["step"])

    def text(self, name: str, text: str, step: int) -> None:
        """Records a sample of text in TensorBoard and Weights & Biases."""
        with self._events.as_default(step=step):
            tf.summary.text(name, text)
        if self._wandb:
            self._wandb.log({name: text}, step=step)

    def close(self, summary: dict[str, Any] | None = None) -> None:
        self._events.close()
        if self._wandb:
            self._wandb.summary.update(summary or {})
            self._wandb.finish()

    def _kept(self, resume_step: int) -> list[str]:
        if not tf.io.gfile.exists(self._path):
            return []
        kept = []
        for line in tf.io.gfile.GFile(self._path).read().splitlines():
            with contextlib.suppress(ValueError):  # a kill may have cut the last line
                if json.loads(line)["step"] <= resume_step:
                    kept.append(line)
        return kept

    def _write(self, mode: str, lines: list[str]) -> None:
        with tf.io.gfile.GFile(self._path, mode) as file:
            file.write("".join(line + "\n" for line in lines))


def _start_wandb(directory: RunDirectory, configuration: dict[str, Any], mode: str) -> Any:
    if mode == "off":
        return None
    import wandb  # late: a second of imports that a run without it need not pay

    has_key = bool(os.environ.get("WANDB_API_KEY") or _netrc_has_wandb())
    local = None if "://" in directory.path else directory.path
    if local:
        os.makedirs(os.path.join(local, "wandb"), exist_ok=True)
    return wandb.init(
        project=os.environ.get("WANDB_PROJECT", "gpt2-tpu"),
        id=_wandb_id(directory),
        resume="allow" if mode == "auto" and has_key else None,
        mode="online" if mode == "auto" and has_key else "offline",
        dir=local,
        config=configuration,
        settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
    )


def _wandb_id(directory: RunDirectory) -> str:
    if not directory.exists("wandb_id.txt"):
        directory.write("wandb_id.txt", os.urandom(6).hex())
    return tf.io.gfile.GFile(directory.join("wandb_id.txt")).read().strip()


def _netrc_has_wandb() -> bool:
    import netrc

    with contextlib.suppress(OSError, netrc.NetrcParseError):
        return "api.wandb.ai" in netrc.netrc().hosts
    return False


class Progress:
    """One line of progress: rewritten in place on a terminal, a plain line elsewhere.

    The time left follows from the rate since the first line, so that compiling does not count.
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
        line = f"step {done:,}/{self._total:,}  {text}{left}"
        self._stream.write(f"\r\x1b[2K{line}" if self._tty else f"{line}\n")
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
