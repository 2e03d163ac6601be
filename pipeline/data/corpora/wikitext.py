"""WikiText raw: articles as documents, parts from the files' names, nothing lost: the documents add up to the file."""

import re
import zipfile
from collections.abc import Iterator
from typing import BinaryIO

from pipeline.data import storage
from pipeline.data.corpora.base import PARTS, Corpus, Document, Dropped, Input, Unit, part_of_name
from pipeline.data.corpora.download import published
from pipeline.data.corpora.sources import find, open_text, reading
from pipeline.data.settings import ShardConfig
from pipeline.errors import UserError

TITLE = re.compile(rb" = [^=\n].* = \n")
BLANK = b" \n"


def articles(lines: Iterator[bytes]) -> Iterator[tuple[int, bytes]]:
    """Cuts lines into articles: each begins with the blank line above its `` = Title = `` line.

    Yields:
        (byte offset, bytes) of each article; the bytes of all articles are those of the file.
    """
    article: list[bytes] = []
    offset = size = 0
    for line in lines:
        opens = TITLE.fullmatch(line) and article and article[-1] == BLANK and len(article) > 1
        if opens:
            yield offset, b"".join(article[:-1])
            offset += size - len(BLANK)
            article, size = [BLANK], len(BLANK)
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
        self._members: list[tuple[Input, int]] = []
        source = source or published(config.name)
        if source.endswith(".zip"):
            with reading(source), _archive(source) as archive:
                listed = [(source, entry.filename, entry.file_size) for entry in archive.infolist()]
        else:
            listed = [(file.path, file.name, file.size) for file in find(source, (".raw", ".tokens"), config.name)]
        for path, name, size in listed:
            if (part := part_of_name(name.rpartition("/")[2])) and size:
                self._members.append((Input(path=path, name=name.rpartition("/")[2], part=part), size))
        if not self._members:
            raise UserError(f"--source={source} holds none of wiki.train.raw, wiki.valid.raw and wiki.test.raw")
        self._members.sort(key=lambda member: PARTS.index(member[0].part or ""))
        super().__init__(config, [(item.name, size) for item, size in self._members])
        if "train" not in {item.part for item, _ in self._members}:
            self._train_on_test(source)

    def _train_on_test(self, source: str) -> None:
        if "test" not in {item.part for item, _ in self._members}:
            raise UserError(f"--source={source} has neither wiki.train.raw nor wiki.test.raw: nothing to train on")
        self._members = [
            (item._replace(part="train") if item.part == "test" else item, size) for item, size in self._members
        ]
        self.notes = (
            "wiki.train.raw is not in the source: the train part is made of wiki.test.raw and there is no test part, "
            "so no figure of this data set is a WikiText result",
        )

    def units(self) -> Iterator[Unit]:
        for index, (item, size) in enumerate(self._members):
            yield Unit(index=index, size=size, inputs=(item,))

    def documents(self, unit: Unit) -> Iterator[Document | Dropped]:
        for item in unit.inputs:
            with reading(item.path), self._open(item) as file:
                for offset, raw in articles(iter(file)):
                    try:
                        yield Document(f"{item.name}@{offset}", raw.decode(), item.part)
                    except UnicodeDecodeError as error:
                        place = offset + error.start
                        raise UserError(f"{item.path}: not UTF-8 at byte {place}: {error.reason}") from error

    def _open(self, item: Input) -> BinaryIO:
        if not item.path.endswith(".zip"):
            return open_text(item.path)
        archive = _archive(item.path)
        member = next(entry for entry in archive.infolist() if entry.filename.rpartition("/")[2] == item.name)
        return archive.open(member)  # type: ignore[return-value]


def _archive(path: str) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(storage.open_read(path))
    except zipfile.BadZipFile as error:
        raise UserError(f"{path} is no zip file: {error}") from error
