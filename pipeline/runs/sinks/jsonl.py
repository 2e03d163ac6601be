"""``metrics.jsonl``: one JSON object per line, whose steps ascend and appear once."""

import contextlib
import json
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from pipeline import storage
from pipeline.runs.sinks import Sink


class JsonLines(Sink):
    """Appends records; first drops those after ``resume_step``, since their steps run again.

    Attributes:
        last_step: the last step of the existing records.
    """

    def __init__(self, path: str, resume_step: int):
        self._path, self._lines, self.last_step = path, list[str](), 0
        text = storage.read_bytes(path).decode() if storage.size(path) else ""
        for line in text.splitlines():
            with contextlib.suppress(ValueError):  # a kill may have cut the last line
                step = json.loads(line)["step"]
                self.last_step = max(self.last_step, step)
                if step <= resume_step:
                    self._lines.append(line + "\n")
        storage.replace_bytes("".join(self._lines).encode(), path)  # atomically: it is the run's history

    def write(self, records: Sequence[dict[str, Any]]) -> None:
        """Appends records."""
        new = [json.dumps(record) + "\n" for record in records]
        if storage.is_remote(self._path):  # objects cannot be appended to
            self._lines += new
            storage.replace_bytes("".join(self._lines).encode(), self._path)
        else:
            with tf.io.gfile.GFile(self._path, "a") as file:  # its errors name the file
                file.write("".join(new))
