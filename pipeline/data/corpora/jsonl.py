"""JSON lines: one object per line, its text under one key. Other lines are dropped and counted by reason."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

from pipeline import texts
from pipeline.data.corpora.base import Corpus, Document, Dropped, Input
from pipeline.data.corpora.listing import find
from pipeline.data.corpora.text import LineFile, expansion, lines, ranges
from pipeline.data.format.settings import ShardConfig
from pipeline.errors import UserError, nearest

LARGEST_LINE = 64 << 20  # bytes: a JSON value is held whole, so longer ones are dropped and counted
FAULTS_AT_ONCE = 1000  # at the beginning of a range, before any valid line


class _FaultError(Exception):
    """Why a line is dropped: the reason that counts it, and what is wrong with it."""

    def __init__(self, reason: str, why: str, byte: int = 0):
        super().__init__(reason)
        self.reason, self.why, self.byte = reason, why, byte


class JSONLines(Corpus):
    """*.jsonl of a directory, or the files that a path or a glob names; plain, .gz, .xz, .bz2 or .zst."""

    def __init__(self, config: ShardConfig, source: str | None):
        files, notes = find(source, (".jsonl", ".ndjson"), config.name)
        super().__init__(config, [(file.name, file.size) for file in files], expansion(files), notes)
        self.own_parts = config.validation_fraction is None
        self._inputs = ranges(config, files, by_line=True)
        self._check_first_and_last_lines()

    def _check_first_and_last_lines(self) -> None:
        """Reports a mistyped key at once: a large source that begins and ends with faults would fail later anyway."""
        if len(self._inputs) == 1:  # read soon anyway
            return
        first = ""
        for item, _ in (self._inputs[0], self._inputs[-1]):
            beginning = itertools.islice(self._documents(item), FAULTS_AT_ONCE)
            faults = [*itertools.takewhile(bool, (getattr(document, "fault", "") for document in beginning))]
            if len(faults) < FAULTS_AT_ONCE:
                return
            first = first or faults[0]
        raise UserError(f"the source begins and ends with lines that cannot be read: {first}")

    def _documents(self, item: Input) -> Iterator[Document | Dropped]:
        for offset, head, file in lines(item):
            identity, place, line = f"{item.name}@{offset}", f"{item.name} at byte", head
            if not file.at_line_start:
                line = b"".join(_rest(head, file))
            line = texts.without_end(line)
            if not texts.without_mark(line).strip():
                continue
            try:
                text = self._text(line)
            except _FaultError as fault:
                yield Dropped(identity, fault.reason, item.part, f"{place} {offset + fault.byte}: {fault.why}")
            else:
                yield self.document(identity, text, item.part)

    def _text(self, line: bytes) -> str:
        if len(line) > LARGEST_LINE:
            raise _FaultError(f"a line over {LARGEST_LINE >> 20} MiB", "it is longer than a text that is held whole")
        row, field = _row(line), self.config.field
        if field not in row:
            keys = f"its keys are {', '.join(row)}" if row else "it has none"
            raise _FaultError(f"no key {field!r}", f"no key {field!r}; {keys}{nearest(field, row)}")
        text = row[field]
        if text is None:
            return ""
        if not isinstance(text, str):
            raise _FaultError(f"{field!r} is not text", f"key {field!r} holds {type(text).__name__}, not text")
        try:
            text.encode()
        except UnicodeEncodeError:  # JSON can spell it, UTF-8 cannot
            raise _FaultError("undecodable", "the text has half of a surrogate pair") from None
        return text


def _row(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(texts.decode(line))
    except UnicodeDecodeError as error:
        raise _FaultError("undecodable", f"not UTF-8: {error.reason}", error.start) from None
    except json.JSONDecodeError as error:
        raise _FaultError("not JSON", f"not JSON: {error}") from None
    except RecursionError:
        raise _FaultError("JSON too deep", "its brackets are too deep") from None
    except ValueError as error:  # Python's limit on an integer's digits
        raise _FaultError("a number too long", str(error).partition(";")[0]) from None
    if not isinstance(row, dict):
        raise _FaultError("no JSON object", f"expected a JSON object, not {line[:40]!r}")
    return row


def _rest(head: bytes, file: LineFile) -> Iterator[bytes]:
    """The rest of a long line; gives up soon after it is too long."""
    yield head
    total = len(head)
    while total <= LARGEST_LINE and (more := file.read(1 << 20)):
        total += len(more)
        yield more
