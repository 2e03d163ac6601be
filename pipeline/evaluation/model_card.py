"""An exported model's card: what it is, how it was trained, and its figures, each with its protocol.

Source: Mitchell et al. 2019, Model Cards for Model Reporting.
"""

import pathlib
from collections.abc import Iterable
from typing import Any

from models.config import ALGPT2Config
from pipeline.evaluation.kept_figures import kept_figures
from pipeline.progress import counted
from pipeline.runs.run_directory import RunDirectory
from pipeline.runs.trained_model import TrainedModel

PATHS = ("text", "data")  # keys of a protocol: a card names the file, not where it was
HEAD = """---
library_name: transformers
pipeline_tag: text-generation
tags:
- {tag}
---

"""
USE = """## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("DIRECTORY")
model = AutoModelForCausalLM.from_pretrained("DIRECTORY"{trust})
tokens = tokenizer("Once", return_tensors="pt")
print(tokenizer.decode(model.generate(**tokens, max_new_tokens=20)[0]))
```

It predicts text of the kind that it was trained on, and follows no instructions. The longest text that it reads is
{context:,} tokens. The tokenizer takes `{end_of_text}` in a text for the end of a document; with
`split_special_tokens=True` it takes it for text, as in training.
"""
NONE = """None was kept for these weights. `python -m pipeline.evaluate` keeps figures in the run directory,
and an export after it writes them here, with their protocol.
"""


def card(run: TrainedModel, *, own_form: bool) -> str:
    """Returns the card as Markdown, after the YAML that the hub reads.

    Args:
        run: the model, and the directory that ``pipeline.evaluate`` kept its figures in.
        own_form: whether an ALGPT2 is exported in its own form, with its code.
    """
    config = run.model.config
    kind = "ALGPT2" if isinstance(config, ALGPT2Config) else "GPT-2"
    parts = [
        HEAD.format(tag="algpt2" if own_form else "gpt2"),
        f"# {kind} of {config.parameters():,} parameters\n\n",
        _about(run, kind, own_form),
        "## Training\n\n",
        _table(_training(run), ("setting", "value")),
        "## Figures\n\n",
        _figures(run) or NONE + "\n",
        USE.format(
            trust=", trust_remote_code=True" if own_form else "",
            context=config.context,
            end_of_text=run.tokenizer.end_of_text_token,
        ),
    ]
    return "".join(parts)


def _about(run: TrainedModel, kind: str, own_form: bool) -> str:
    config = run.model.config
    parts = f"{counted(config.layers, 'layer')}, {counted(config.heads, 'head')}"
    sizes = f"{parts}, width {config.width}, context {config.context:,}"
    text = f"{kind}: {sizes}, {config.known_vocabulary:,} tokens. The weights are those of step {run.step:,}.\n"
    if isinstance(config, ALGPT2Config):
        tables = f", token and position tables of width {config.embedding}" if config.embedding else ""
        text += f"ALGPT2 is GPT-2 with one block that all layers share{tables}.\n"
        text += "`modeling_algpt2.py` computes it.\n" if own_form else "Here it is the plain GPT-2 that equals it.\n"
    return text + "\n"


def _training(run: TrainedModel) -> dict[str, Any]:
    sections = {name: run.identity.get(name, {}) for name in ("train", "optimizer", "data", "shard")}
    train, optimizer = sections["train"], sections["optimizer"]
    rows = {
        "corpus": sections["shard"].get("name"),
        "corpus's fingerprint": sections["data"].get("corpus"),
        "tokenizer.json's sha256": run.tokenizer.fingerprint,
        "steps": run.step,
        "sequences of a step": train.get("global_batch"),
        "optimizer": str(optimizer.get("kind", "")).removesuffix("Config") or None,
        "learning rate": optimizer.get("learning_rate"),
        "dtype of activations": train.get("compute_dtype"),
        "seed": train.get("seed"),
        "began from": "another model's weights" if train.get("pretrained") else None,
    }
    if train.get("global_batch"):
        rows["tokens seen"] = run.step * train["global_batch"] * run.model.config.context
    return {name: value for name, value in rows.items() if value is not None}


def _figures(run: TrainedModel) -> str:
    sections = ""
    for evaluation in _evaluations(run):
        protocol = evaluation["protocol"]
        shown = {name: pathlib.PurePath(str(protocol[name])).name for name in PATHS if protocol.get(name)}
        title = shown.get("text") or f"{str(protocol.get('corpus', 'data')).split()[0]}, {protocol.get('part')}"
        names = {name: name.replace("_", " ") for name in evaluation["figures"]}
        figures = {names[name]: value for name, value in evaluation["figures"].items()}
        sections += f"### {_plain(title)}\n\n{_table(figures, ('figure', 'value'))}"
        sections += f"Protocol:\n\n{_table({**protocol, **shown}, ('protocol', 'value'))}"
    return sections


def _evaluations(run: TrainedModel) -> Iterable[dict[str, Any]]:
    """Yields the figures that pipeline.evaluate kept for exactly these weights."""
    for evaluation in kept_figures(RunDirectory(run.directory)):
        if evaluation["protocol"].get("step") == run.step:
            yield evaluation


def _table(rows: dict[str, Any], head: tuple[str, str]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|"]
    lines += [f"| {_plain(name)} | {_plain(_value(value))} |" for name, value in rows.items()]
    return "\n".join(lines) + "\n\n"


def _value(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.5g}"


def _plain(text: str) -> str:
    """Returns text that Markdown shows as it is."""
    text = "".join(f"\\{character}" if character in "\\`*_[]<>|#" else character for character in text)
    return " ".join(text.split())
