"""Writes a run's figures: to metrics.jsonl, TensorBoard, and Weights & Biases if it is on.

``metrics.jsonl`` has one JSON object per line, written after each loop of ``train.steps_per_loop`` steps:

    step                     optimizer steps done
    tokens                   tokens trained on so far
    loss                     nats per token: mean over the loop's steps
    learning_rate            of the last step's update
    grad_norm                global norm before clipping: mean over the loop's steps
    skipped                  updates skipped in this loop (incidents.jsonl says which)
    tokens_per_second        over the loop; left out for a process's first step, most of which is compiling
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
tokens_per_second, mfu: of the last process, without its compiling), validation (as above; {} without data), best (step,
nats_per_token; with ``train.keep_best``), sample (with ``train.sample_prompt``), seconds (by part) and goodput (the
share of ``step``).
"""

from typing import Any

from pipeline.runs.run_directory import RunDirectory
from pipeline.runs.sinks import Sink, wandb
from pipeline.runs.sinks.jsonl import JsonLines
from pipeline.runs.sinks.tensorboard import TensorBoard


class MetricsWriter:
    """Writes each record once to every sink; a resumed run appends to the existing records.

    Args:
        directory: the run's.
        configuration: shown in Weights & Biases.
        wandb_mode: ``'auto'`` (online if a key is known and the server answers), ``'offline'`` or ``'off'``.
        resume_step: records after this step are replaced: their steps run again.
    """

    def __init__(self, directory: RunDirectory, configuration: dict[str, Any], *, wandb_mode: str, resume_step: int):
        lines = JsonLines(directory.join("metrics.jsonl"), resume_step)
        self._sinks: list[Sink] = [lines, TensorBoard(directory.join("tensorboard"), resume_step)]
        repeated = range(resume_step + 1, lines.last_step + 1)
        if sink := wandb.start(directory, configuration, wandb_mode, repeated):
            self._sinks.append(sink)

    def write(self, record: dict[str, Any]) -> None:
        """Keeps a flat record of numbers with ``step``; values that are None are left out."""
        record = {name: value for name, value in record.items() if value is not None}
        for sink in self._sinks:
            sink.write(record)

    def text(self, name: str, text: str, step: int) -> None:
        """Keeps a text, such as a sample, in TensorBoard and Weights & Biases."""
        for sink in self._sinks:
            sink.text(name, text, step)

    def close(self, summary: dict[str, Any] | None = None) -> None:
        """Closes every sink."""
        for sink in self._sinks:
            sink.close(summary)
