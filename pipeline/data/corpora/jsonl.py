"""JSON lines: an object a line, its text under one key."""

import json
from collections.abc import Iterator

from pipeline.data.corpora.base import Corpus, Document, Dropped, Unit, grouped
from pipeline.data.corpora.sources import find
from pipeline.data.corpora.text import LineFile, expansion, lines, ranges
from pipeline.data.settings import ShardConfig
from pipeline.errors import UserError, nearest

LARGEST_LINE = 64 << 20  # bytes: a JSON value is held whole, so longer ones are dropped and counted


class JSONLines(Corpus):
    """*.jsonl of a directory, or the files that a path or a glob names; plain, .gz, .xz, .bz2 or .zst."""

    def __init__(self, config: ShardConfig, source: str | None):
        files = find(source, (".jsonl", ".ndjson"), config.name)
        super().__init__(config, [(file.name, file.size) for file in files], expansion(files))
        self.own_parts = config.validation_fraction is None
        self._inputs = ranges(config, files, by_line=True)

    def units(self) -> Iterator[Unit]:
        return grouped(self._inputs)

    def documents(self, unit: Unit) -> Iterator[Document | Dropped]:
        for item in unit.inputs:
            for offset, head, file in lines(item):
                identity, line = f"{item.name}@{offset}", head
                if not file.at_line_start:
                    line = b"".join(_rest(head, file))
                if len(line) > LARGEST_LINE:
                    yield Dropped(identity, f"a line over {LARGEST_LINE >> 20} MiB", item.part)
                elif line.strip():
                    yield self._document(identity, line, item.path, item.part)

    def _document(self, identity: str, line: bytes, path: str, part: str | None) -> Document | Dropped:
        place = f"{path} at byte {identity.rpartition('@')[2]}"
        try:
            row = json.loads(line)
        except UnicodeDecodeError:
            return Dropped(identity, "undecodable", part)
        except ValueError as error:
            raise UserError(f"{place}: not a JSON line ({error})") from error
        if not isinstance(row, dict):
            raise UserError(f"{place}: expected a JSON object with the key {self.config.field!r}, not {line[:40]!r}")
        if self.config.field not in row:
            near = nearest(self.config.field, row)
            raise UserError(
                f"{place}: no key {self.config.field!r} in this line, whose keys are {', '.join(row)}{near}"
            )
        text = row[self.config.field]
        if text is None:
            return Dropped(identity, "empty", part)
        if not isinstance(text, str):
            raise UserError(f"{place}: key {self.config.field!r} holds {type(text).__name__}, not text")
        try:
            text.encode()
        except UnicodeEncodeError:  # half of a surrogate pair, which JSON can spell and UTF-8 cannot
            return Dropped(identity, "undecodable", part)
        return self.document(identity, text, part)


def _rest(head: bytes, file: LineFile) -> Iterator[bytes]:
    """The rest of a long line, given up soon after it is too long."""
    yield head
    total = len(head)
    while total <= LARGEST_LINE and (more := file.read(1 << 20)):
        total += len(more)
        yield more
