"""Text samples that a run's model writes during training."""

import contextlib

import models
from models.decoding import Sampling, generate
from models.protocols import LanguageModel
from pipeline.data.format.tokenizer import Tokenizer
from pipeline.devices import wheels
from pipeline.devices.connect import on_this_machine

SAMPLE_TOKENS = 100


class SampleWriter:
    """Continues a prompt with a model's current weights, at temperature 0.8 from the 40 most likely tokens.

    Args:
        model, tokenizer: the run's.
        prompt: the text to continue; a long one is cut.
        on_host: generate with a copy of the model on this machine's CPU, as with TPUs: they run only what
            ``strategy.run`` gives them, and one row of text would waste a pod.
    """

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer, prompt: str, *, on_host: bool = False):
        self._model, self._tokenizer, self._prompt, self._on_host = model, tokenizer, prompt, on_host
        self._copy: LanguageModel | None = None

    def write(self) -> str:
        """Returns the prompt and its continuation."""
        tokenizer = self._tokenizer
        with on_this_machine() if self._on_host else contextlib.nullcontext():
            model = self._model_here()
            ids = tokenizer.encode(self._prompt)[: model.config.context // 2]
            (continuation,) = generate(
                model,
                [ids],
                max_new_tokens=min(SAMPLE_TOKENS, model.config.context - len(ids)),
                end_of_text=tokenizer.end_of_text,
                sampling=Sampling(temperature=0.8, top_k=40),
                compiled=wheels.compiles_for_cpu(),
            )
        return self._prompt + tokenizer.decode(continuation)

    def _model_here(self) -> LanguageModel:
        if not self._on_host:
            return self._model
        if self._copy is None:
            self._copy = models.build(self._model.config)
        for variable, source in zip(self._copy.variables, self._model.variables, strict=True):
            variable.assign(source.numpy())
        return self._copy
