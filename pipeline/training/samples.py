"""What a run's model writes at its intervals: text under the number of the step, in ``samples.txt``."""

import re
from typing import Any

from models.decoding import Sampling, generate
from pipeline.training.metrics import MetricsWriter
from pipeline.training.run_directory import RunDirectory

FILE = "samples.txt"
SAMPLE_TOKENS = 100
HEAD = re.compile(r"^=== step ([\d,]+) ===\n", re.MULTILINE)


class Samples:
    """Appends samples to ``samples.txt``, TensorBoard and Weights & Biases.

    Args:
      directory: the run's.
      metrics: its sinks.
      resume_step: samples after this step are dropped: their steps run again.
    """

    def __init__(self, directory: RunDirectory, metrics: MetricsWriter, resume_step: int):
        self._directory, self._metrics, self._text = directory, metrics, ""
        if directory.exists(FILE):
            known = directory.read_text(FILE)
            later = (head for head in HEAD.finditer(known) if int(head[1].replace(",", "")) > resume_step)
            self._text = known[: next((head.start() for head in later), len(known))]

    def add(self, step: int, text: str) -> None:
        """Adds the sample of a step."""
        self._text += f"=== step {step:,} ===\n{text}\n\n"
        self._directory.write(FILE, self._text)
        self._metrics.text("sample", text, step)


def sample(model: Any, tokenizer: Any, prompt: str) -> str:
    """Returns the prompt and how the model goes on, at temperature 0.8 from its 40 likeliest tokens."""
    ids = tokenizer.encode(prompt)[: model.config.context // 2]
    length = min(SAMPLE_TOKENS, model.config.context - len(ids))
    sampling = Sampling(temperature=0.8, top_k=40)
    (made,) = generate(
        model, [ids], max_new_tokens=length, end_of_text=tokenizer.end_of_text, sampling=sampling, seed=0
    )
    return prompt + tokenizer.decode(made)
