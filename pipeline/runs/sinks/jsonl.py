"""``metrics.jsonl``: one JSON object per line, whose steps ascend and appear once."""

import contextlib
import json
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from pipeline.runs.sinks import Sink

if TYPE_CHECKING:
    from pipeline.runs.run_directory import RunDirectory

FILE = "metrics.jsonl"


class JsonLines(Sink):
    """Appends records; those after ``resume_step`` are dropped at the start, since their steps run again.

    Attributes:
        last_step: the last step of the records that were there.
    """

    def __init__(self, directory: "RunDirectory", resume_step: int):
        self._path, self.last_step = directory.join(FILE), 0
        self._lines = self._lines_until(resume_step)
        directory.write(FILE, "".join(self._lines))  # atomically: it is the run's history

    def write(self, record: dict[str, Any]) -> None:
        """Appends a record."""
        self._lines.append(json.dumps(record) + "\n")
        remote = "://" in self._path  # objects cannot be appended to; one record per loop makes this cheap enough
        with tf.io.gfile.GFile(self._path, "w" if remote else "a") as file:
            file.write("".join(self._lines) if remote else self._lines[-1])

    def _lines_until(self, resume_step: int) -> list[str]:
        if not tf.io.gfile.exists(self._path):
            return []
        lines = []
        for line in tf.io.gfile.GFile(self._path).read().splitlines():
            with contextlib.suppress(ValueError):  # a kill may have cut the last line
                step = json.loads(line)["step"]
                self.last_step = max(self.last_step, step)
                if step <= resume_step:
                    lines.append(line + "\n")
        return lines
