"""TensorBoard's events, in ``tensorboard/``."""

import time
from typing import Any

import tensorflow as tf
from tensorflow.compat.v1 import Event, SessionLog

from pipeline.devices.connect import on_this_machine
from pipeline.runs.sinks import Sink


class TensorBoard(Sink):
    """Writes events from this machine, wherever the run's devices are.

    TensorBoard discards a killed process's events of steps after ``resume_step``, which run again: it reads the first
    event that says "started" as the start, and each later one as a restart.
    """

    def __init__(self, folder: str, resume_step: int):
        started = Event(wall_time=time.time(), step=resume_step + 1, session_log=SessionLog(status=SessionLog.START))
        with on_this_machine():
            self._events = tf.summary.create_file_writer(folder)
            tf.raw_ops.ImportEvent(writer=self._events._resource, event=started.SerializeToString())

    def write(self, record: dict[str, Any]) -> None:
        """Writes each figure but the step, ``seconds.step`` as ``seconds/step``."""
        with on_this_machine(), self._events.as_default(step=record["step"]):
            for name, value in record.items():
                if name != "step":
                    tf.summary.scalar(name.replace(".", "/", 1), value)
        self._events.flush()

    def text(self, name: str, text: str, step: int) -> None:
        """Writes a text."""
        with on_this_machine(), self._events.as_default(step=step):
            tf.summary.text(name, text)
        self._events.flush()

    def close(self, summary: dict[str, Any] | None) -> None:
        """Closes the file."""
        self._events.close()
