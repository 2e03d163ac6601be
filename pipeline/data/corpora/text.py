"""Plain text files, compressed or not: a document is a file, a line, or a WikiText-style article."""

from collections.abc import Iterator
from typing import BinaryIO

from pipeline.data.corpora.base import PIECE_BYTES, UNIT_BYTES, Corpus, Document, Dropped, Input, part_of_name
from pipeline.data.corpora.listing import File, find
from pipeline.data.corpora.sources import COMPRESSED, open_text, reading, suffix
from pipeline.data.corpora.wikitext import articles
from pipeline.data.format.settings import ShardConfig
from pipeline.errors import UserError
from pipeline.texts import without_end


def expansion(files: list[File]) -> float:
    """Bytes of text per byte of the files, estimated from their compression."""
    total = sum(file.size for file in files)
    return sum(file.size * COMPRESSED.get(suffix(file.name), 1.0) for file in files) / max(total, 1)


def part_of_file(config: ShardConfig, file: File) -> str | None:
    """The part that the file's name states, if the settings ask for the corpus's own parts."""
    if config.validation_fraction is not None:
        return None
    part = part_of_name(file.name)
    if part is None:
        raise UserError(f"{file.path}: its name states no part (train, valid, test): set shard.validation_fraction")
    return part


def ranges(config: ShardConfig, files: list[File], by_line: bool) -> list[tuple[Input, int]]:
    """Returns the files as inputs; cuts uncompressed files of lines into ranges of UNIT_BYTES."""
    inputs = []
    for file in files:
        part = part_of_file(config, file)
        if by_line and not suffix(file.name) and file.size > UNIT_BYTES:
            for start in range(0, file.size, UNIT_BYTES):
                end = min(start + UNIT_BYTES, file.size)
                inputs.append((Input(file.path, file.name, start, end, part), end - start))
        else:
            inputs.append((Input(file.path, file.name, 0, None, part), file.size))
    return inputs


class LineFile:
    """A file that is read line by line, and knows its position."""

    def __init__(self, file: BinaryIO, position: int = 0):
        self._file, self.position, self.at_line_start = file, position, False

    def readline(self) -> bytes:
        """Reads to the end of the line, but at most PIECE_BYTES, and one more to keep a CRLF together."""
        data = self._file.readline(PIECE_BYTES)
        if data.endswith(b"\r"):
            data += self._file.readline(1)
        self.position += len(data)
        self.at_line_start = not data or data.endswith(b"\n")
        return data

    def read(self, size: int) -> bytes:
        """Reads the rest of the line in pieces, without its end; b"" at the end."""
        return b"" if self.at_line_start else without_end(self.readline())

    def skip_line(self) -> None:
        """Skips to the beginning of the next line."""
        while not self.at_line_start:
            self.readline()


def lines(item: Input) -> Iterator[tuple[int, bytes, LineFile]]:
    """Yields (byte offset, line, file) for the lines that begin in the input's range.

    A line longer than PIECE_BYTES comes without its rest; read that from the file.
    """
    before = max(item.start - 1, 0)
    with reading(item.path), open_text(item.path, before) as raw:
        file = LineFile(raw, before)
        if item.start:  # the line that holds the byte before the range belongs to the range before
            file.skip_line()
        while item.end is None or file.position < item.end:
            offset, line = file.position, file.readline()
            if not line:
                return
            yield offset, line, file
            file.skip_line()


class Text(Corpus):
    """*.txt files of a directory, or the files that a path or a glob names."""

    def __init__(self, config: ShardConfig, source: str | None):
        files, notes = find(source, (".txt",), config.name)
        super().__init__(config, [(file.name, file.size) for file in files], expansion(files), notes)
        self.own_parts = config.validation_fraction is None
        self._inputs = ranges(config, files, by_line=config.documents == "line")

    def _documents(self, item: Input) -> Iterator[Document | Dropped]:
        return {"file": self._file, "line": self._lines, "article": self._articles}[self.config.documents](item)

    def _file(self, item: Input) -> Iterator[Document | Dropped]:
        with reading(item.path), open_text(item.path) as file:
            yield self.from_stream(item.name, file, None, item.part)

    def _lines(self, item: Input) -> Iterator[Document | Dropped]:
        for offset, line, file in lines(item):
            identity = f"{item.name}@{offset}"
            if len(line) < PIECE_BYTES or file.at_line_start:
                yield self.from_bytes(identity, without_end(line), item.part)
            else:
                yield self.from_long(identity, line, file, item.part)

    def _articles(self, item: Input) -> Iterator[Document | Dropped]:
        with reading(item.path), open_text(item.path) as file:
            for offset, raw in articles(iter(file)):
                yield self.from_bytes(f"{item.name}@{offset}", raw, item.part)
