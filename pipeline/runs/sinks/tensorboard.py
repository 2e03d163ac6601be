"""TensorBoard's events, in ``tensorboard/``."""

import time
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.plugins.scalar.summary_v2 import scalar_pb

from pipeline.devices.connect import on_this_machine
from pipeline.runs.sinks import Sink


class TensorBoard(Sink):
    """Writes events from this machine, wherever the run's devices are.

    TensorBoard discards a killed process's events after ``resume_step``, whose steps run again: it takes the first
    "started" event as the start, and each later one as a restart.
    """

    def __init__(self, folder: str, resume_step: int):
        started = Event(wall_time=time.time(), step=resume_step + 1, session_log=SessionLog(status=SessionLog.START))
        with on_this_machine():
            # The writer's own flushes, one every ten events, would each send the whole file to a bucket.
            self._events = tf.summary.create_file_writer(folder, max_queue=2**31 - 1, flush_millis=2**31 - 1)
        self._add(started)

    def write(self, records: Sequence[dict[str, Any]]) -> None:
        """Writes an event for each record, at its time, ``seconds.step`` as ``seconds/step``."""
        for record in records:
            event = Event(wall_time=record.get("time", time.time()), step=record["step"])
            for name in record.keys() - {"step", "time"}:
                event.summary.MergeFrom(scalar_pb(name.replace(".", "/", 1), record[name]))
            self._add(event)
        self._events.flush()

    def text(self, name: str, text: str, step: int) -> None:
        """Writes a text."""
        with on_this_machine(), self._events.as_default(step=step):
            tf.summary.text(name, text)
        self._events.flush()

    def close(self, summary: dict[str, Any] | None) -> None:
        """Closes the file."""
        self._events.close()

    def _add(self, event: Event) -> None:
        with on_this_machine():
            tf.raw_ops.ImportEvent(writer=self._events._resource, event=event.SerializeToString())
