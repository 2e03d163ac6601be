"""WikiText raw: articles as documents, parts from file names, nothing lost: the documents add up to the file."""

import re
import zipfile
from collections.abc import Iterator
from typing import BinaryIO

from pipeline import storage, texts
from pipeline.data.corpora.base import PARTS, Corpus, Document, Dropped, Input, Unit, grouped, part_of_name
from pipeline.data.corpora.download import published
from pipeline.data.corpora.listing import File, Listing, find, kind_passed_over, note_of
from pipeline.data.corpora.sources import open_text, reading
from pipeline.data.format.settings import ShardConfig
from pipeline.errors import UserError

TITLE = re.compile(rb" = [^=\n].* = \r?\n")
BLANK = (b" \n", b" \r\n")


def articles(lines: Iterator[bytes]) -> Iterator[tuple[int, bytes]]:
    """Cuts lines into articles: each begins with the blank line above its `` = Title = `` line.

    Yields:
        (byte offset, bytes) of each article; the bytes of all articles are those of the file.
    """
    article: list[bytes] = []
    offset = size = 0
    for line in lines:
        opens = TITLE.fullmatch(line) and article and article[-1] in BLANK and len(article) > 1
        if opens:
            yield offset, b"".join(article[:-1])
            offset += size - len(article[-1])
            article, size = article[-1:], len(article[-1])
        article.append(line)
        size += len(line)
    if article:
        yield offset, b"".join(article)


class WikiText(Corpus):
    """wiki.train.raw, wiki.valid.raw and wiki.test.raw, from a directory or the published zip file.

    A source without the train file cannot give WikiText's train part. Its test text then becomes the train part, there
    is no test part, and a note in the manifest and on the terminal says so.
    """

    own_parts = True

    def __init__(self, config: ShardConfig, source: str | None):
        self._inputs: list[tuple[Input, int]] = []
        source = source or published(config.name)
        zipped = source.lower().endswith(".zip")
        files, notes = _in_zip(source, config.name) if zipped else find(source, (".raw", ".tokens"), config.name)
        for file in files:
            name = file.name.rpartition("/")[2]
            if (part := part_of_name(name)) and file.size:
                self._inputs.append((Input(path=file.path, name=name, part=part), file.size))
        names = [item.name for item, _ in self._inputs]
        if not names:
            raise UserError(f"--source={source} holds none of wiki.train.raw, wiki.valid.raw and wiki.test.raw")
        if twice := {name for name in names if names.count(name) > 1}:
            raise UserError(f"--source={source} holds {min(twice)} more than once; expected one WikiText")
        self._inputs.sort(key=lambda member: PARTS.index(member[0].part or ""))
        super().__init__(config, [(item.name, size) for item, size in self._inputs], notes=notes)
        parts = {item.part for item, _ in self._inputs}
        if not parts & {"train", "test"}:
            raise UserError(f"--source={source} has neither wiki.train.raw nor wiki.test.raw: nothing to train on")
        if "train" not in parts:
            self._inputs = [
                (item._replace(part="train") if item.part == "test" else item, size) for item, size in self._inputs
            ]
            self.notes += (
                "wiki.train.raw is not in the source: the train part is made of wiki.test.raw and there is no test "
                "part, so no figure of this data set is a WikiText result",
            )

    def units(self) -> Iterator[Unit]:
        """Makes a unit of each file."""
        return grouped(self._inputs, unit_bytes=0)

    def _documents(self, item: Input) -> Iterator[Document | Dropped]:
        with reading(item.path), self._open(item) as file:
            for offset, raw in articles(iter(file)):
                try:
                    yield Document(f"{item.name}@{offset}", texts.decode(raw), item.part)
                except UnicodeDecodeError as error:
                    place = offset + error.start
                    raise UserError(f"{item.path}: not UTF-8 at byte {place}: {error.reason}") from error

    def _open(self, item: Input) -> BinaryIO:
        if not item.path.lower().endswith(".zip"):
            return open_text(item.path)
        archive = _archive(item.path)
        names = [name for name in archive.namelist() if not kind_passed_over(name)]
        member = next(name for name in names if name.rpartition("/")[2] == item.name)
        try:
            return archive.open(member)  # type: ignore[return-value]
        except (RuntimeError, NotImplementedError) as error:  # encrypted, or an unknown compression
            raise UserError(f"{item.path}: {error}; expected a zip file without a password") from error


def _in_zip(source: str, corpus: str) -> Listing:
    """Lists the members of a zip file as if they were files."""
    files, passed_over = [], []
    for file in find(source, (".zip",), corpus).files:
        with reading(file.path), _archive(file.path) as archive:
            for entry in archive.infolist():
                if kind := kind_passed_over(entry.filename):
                    passed_over.append((kind, entry.filename))
                else:
                    files.append(File(file.path, entry.filename, entry.file_size))
    return Listing(files, note_of(passed_over))


def _archive(path: str) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(storage.open_read(path))
    except zipfile.BadZipFile as error:
        raise UserError(f"{path} is not a zip file: {error}") from error
