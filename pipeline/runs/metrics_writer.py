"""Writes a run's figures: to metrics.jsonl, TensorBoard, and Weights & Biases if it is on.

``metrics.jsonl`` has one JSON object per line and step, some 140 bytes, written after each loop of
``train.steps_per_loop`` steps (to a bucket: before each checkpoint, else once a minute):

    step                     optimizer steps done
    tokens                   tokens trained on so far
    loss                     nats per token
    learning_rate            of the step's update
    grad_norm                global norm before clipping
    time                     when it ended, in Unix seconds; the steps of a loop are taken to be equally long

The last step of a loop has more:

    skipped                  updates skipped in this loop (incidents.jsonl says which)
    tokens_per_second        over the loop; omitted for a process's first step, which is mostly compiling
    mfu                      model FLOPs as a share (0 … 1) of the devices' peak; omitted there too
    seconds.PART             of the run so far, by the parts of goodput.py, whose sum is the wall clock since the run's
                             first start
    validation.NAME          if an evaluation was due: nats_per_token, perplexity, tokens (scored), and bits_per_byte,
                             except for line-packed data, whose text is not scored completely

Steps ascend and appear once: lines that a killed process wrote after its last checkpoint are replaced. Older runs have
one line per loop, with its mean loss and gradient norm. ``loss`` and ``grad_norm`` can be NaN or Infinity, as Python's
json writes them. TensorBoard and Weights & Biases get the same figures under the same names (TensorBoard:
``seconds/PART`` and ``validation/NAME``), at the same times.

``summary.json`` is written last and marks the run as done: parameters, steps, tokens_seen, train (nats_per_token: mean
of the last loop; tokens_per_second, mfu: of the last process, without its compiling), validation (as above; {} without
data), best (step, nats_per_token; with ``train.keep_best``), sample (with ``train.sample_prompt``), seconds (by part)
and goodput (the share of ``step``).
"""

import time
from typing import Any

from pipeline import storage
from pipeline.runs.run_directory import RunDirectory
from pipeline.runs.sinks import Sink, wandb
from pipeline.runs.sinks.jsonl import JsonLines
from pipeline.runs.sinks.tensorboard import TensorBoard

REMOTE_SECONDS = 60.0  # between two uploads of the whole files to a bucket: objects cannot be appended to


class MetricsWriter:
    """Writes each record once to every sink; a resumed run appends to the existing records.

    Args:
        directory: the run's.
        configuration: shown in Weights & Biases.
        wandb_mode: ``'auto'`` (online if a key is known and the server answers), ``'offline'`` or ``'off'``.
        resume_step: records after this step are replaced: their steps run again.
    """

    def __init__(self, directory: RunDirectory, configuration: dict[str, Any], *, wandb_mode: str, resume_step: int):
        self._waiting, self._due = list[dict[str, Any]](), 0.0
        self._pause = REMOTE_SECONDS if storage.is_remote(directory.path) else 0.0
        lines = JsonLines(directory.join("metrics.jsonl"), resume_step)
        self._sinks: list[Sink] = [lines, TensorBoard(directory.join("tensorboard"), resume_step)]
        repeated = range(resume_step + 1, lines.last_step + 1)
        if sink := wandb.start(directory, configuration, wandb_mode, repeated):
            self._sinks.append(sink)

    def write(self, *records: dict[str, Any]) -> None:
        """Keeps flat records of numbers with ``step``; omits values that are None."""
        self._waiting += [{name: x for name, x in record.items() if x is not None} for record in records]
        if time.monotonic() >= self._due:
            self.flush()

    def flush(self) -> None:
        """Writes what has been kept."""
        records, self._waiting = self._waiting, []
        for sink in self._sinks if records else []:
            sink.write(records)
        self._due = time.monotonic() + self._pause

    def text(self, name: str, text: str, step: int) -> None:
        """Keeps a text (a sample) in TensorBoard and Weights & Biases, after the records of earlier steps."""
        self.flush()
        for sink in self._sinks:
            sink.text(name, text, step)

    def close(self, summary: dict[str, Any] | None = None) -> None:
        """Closes every sink."""
        self.flush()
        for sink in self._sinks:
            sink.close(summary)
