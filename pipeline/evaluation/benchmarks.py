"""Benchmark files: published texts, scored as a whole, and examples with answers to score after a prompt.

LAMBADA: Paperno et al. 2016; OpenAI's variant keeps the books' own punctuation and case. HellaSwag: Zellers et al.
2019. Penn Treebank: Mikolov et al. 2010. enwik8 and text8: Mahoney 2011; their last 5,000,000 bytes are the test part.
"""

import dataclasses
import hashlib
import json
from typing import Any

from pipeline import texts
from pipeline.errors import UserError, nearest
from pipeline.evaluation.detokenizers import MARK, detokenize


@dataclasses.dataclass(frozen=True)
class Text:
    """A benchmark that is one text: its detokenizer, and how many of its last bytes are scored."""

    detokenizer: str = "none"
    last_bytes: int | None = None


@dataclasses.dataclass(frozen=True)
class Choices:
    """A benchmark of examples: the fields of a JSON line that hold the prompt, the choices and the right one."""

    prompt: str
    choices: str | None = None
    answer: str | None = None
    plain_lines: bool = False


@dataclasses.dataclass(frozen=True)
class Example:
    """A prompt, its possible continuations, and the index of the right one."""

    prompt: str
    choices: tuple[str, ...]
    answer: int


TEXTS = {
    "text": Text(),
    "wikitext": Text("wikitext"),
    "ptb": Text("ptb"),
    "enwik8": Text(last_bytes=5_000_000),
    "text8": Text(last_bytes=5_000_000),
}
EXAMPLES = {
    "lambada": Choices("text", plain_lines=True),
    "lambada_openai": Choices("text"),
    "hellaswag": Choices("ctx", "endings", "label"),
    "multiple_choice": Choices("prompt", "choices", "answer"),
}


def check(benchmark: str) -> None:
    """Raises UserError for an unknown benchmark."""
    names = [*TEXTS, *EXAMPLES]
    if benchmark not in names:
        raise UserError(f"--benchmark={benchmark}: expected one of {', '.join(names)}{nearest(benchmark, names)}")


def read_file(file: str) -> tuple[str, str]:
    """Returns a UTF-8 file's text and sha256; UserError if it cannot be read or is empty."""
    text, raw = texts.read_file(file, "--text")
    if not text.strip():
        raise UserError(f"--text={file}: it holds no text")
    return text, hashlib.sha256(raw).hexdigest()


def text_of(benchmark: str, published: str, detokenizer: str | None = None) -> tuple[str, str, dict[str, Any]]:
    """Returns the published text to score, the same text as the model reads it, and their protocol.

    ``published`` is the whole file; ``detokenizer`` replaces the benchmark's own.
    """
    settings = TEXTS[benchmark]
    if settings.last_bytes:
        # The cut may be inside a character.
        published = published.encode()[-settings.last_bytes :].decode(errors="ignore")
    name = settings.detokenizer if detokenizer is None else detokenizer
    text = detokenize(name, published)
    return published, text, {"benchmark": benchmark, "detokenizer": name, "detokenizer_marks": text.count(MARK)}


def examples_of(benchmark: str, file: str, text: str) -> list[Example]:
    """Returns the examples of a file of JSON lines, or for ``lambada`` of one passage per line.

    Raises:
        UserError: a line is no JSON object, lacks a field (the message names it), or its answer is not a choice.
    """
    fields, examples = EXAMPLES[benchmark], []
    for number, line in enumerate(texts.lines(text), start=1):
        if not line.strip():
            continue
        where = f"--text={file}, line {number}"
        if fields.plain_lines and not line.lstrip().startswith("{"):
            examples.append(_last_word(line, where))
            continue
        record = _record(line, where)
        prompt = _field(record, fields.prompt, str, where)
        if fields.choices is None:
            examples.append(_last_word(prompt, where))
            continue
        choices = _field(record, fields.choices, list, where)
        answer = _field(record, str(fields.answer), (int, str), where)
        examples.append(_example(prompt, choices, answer, where))
    return examples


def _record(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    if not isinstance(record, dict):
        raise UserError(f"{where}: not a JSON object; expected one per line")
    return record


def _field(record: dict[str, Any], name: str, kind: Any, where: str) -> Any:
    if name not in record:
        raise UserError(f"{where}: no field {name!r}; it has {', '.join(record) or 'none'}{nearest(name, record)}")
    if not isinstance(record[name], kind) or isinstance(record[name], bool):
        raise UserError(f"{where}: field {name!r} is {record[name]!r}, which has the wrong type")
    return record[name]


def _last_word(passage: str, where: str) -> Example:
    prompt, space, word = passage.rstrip(" \t\r\n").rpartition(" ")
    if not prompt.strip():
        raise UserError(f"{where}: {passage!r} has no last word after a prompt; expected at least two words")
    return Example(prompt, (space + word,), 0)


def _example(prompt: str, choices: list[Any], answer: int | str, where: str) -> Example:
    if len(choices) < 2 or not all(isinstance(choice, str) and choice for choice in choices):
        raise UserError(f"{where}: choices are {choices!r}; expected at least two texts")
    index = choices.index(answer) if answer in choices else int(answer) if str(answer).isdecimal() else -1
    if not 0 <= index < len(choices):
        raise UserError(f"{where}: answer {answer!r}; expected one of the choices, or 0 to {len(choices) - 1}")
    joined = tuple(choice if prompt[-1:].isspace() or choice[0].isspace() else f" {choice}" for choice in choices)
    return Example(prompt, joined, index)
