"""The manifest, which describes a data set. ``manifest.json`` is written last; without it there is no data set.

Imports neither numpy nor TensorFlow, so that a dry run can read a manifest.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline import storage
from pipeline.errors import UserError

FORMAT_VERSION = 1
CODE_VERSION = "0.1.0"
FILE_NAME = "manifest.json"
TOKENIZER_FILE = "tokenizer.json"


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """The text: ``fingerprint`` is a digest of its documents, ``listing`` one of its files' names and sizes."""

    name: str
    fingerprint: str
    listing: str
    seed: int
    order: str  # 'hash': by salted hash of the id | 'source': as read
    notes: tuple[str, ...] = ()  # what a reader of its figures must know: a missing part, for example


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """The vocabulary: ``fingerprint`` is the sha256 of the tokenizer.json next to the manifest."""

    name: str
    fingerprint: str
    vocabulary_size: int
    end_of_text: int


@dataclass(frozen=True, kw_only=True)
class Record:
    """The shape of a record. ``packing``: 'contiguous' (one stream, cut) or 'lines' (one line per record, padded)."""

    context: int
    bytes: int
    packing: str = "contiguous"

    @property
    def scores_all_text(self) -> bool:
        """Whether every token of a part but the first is a label, so that nats can be divided by bytes and words.

        With one line per record, neither the first token nor what was cut off is ever a label.
        """
        return self.packing == "contiguous"


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One file of records; ``crc32c`` covers the whole file, as in Cloud Storage, in hexadecimal."""

    file: str
    records: int
    bytes: int
    crc32c: str


@dataclass(frozen=True, kw_only=True)
class Part:
    """One of train, validation and test.

    ``tokens`` counts the whole stream, including end-of-text tokens. ``tail`` is the end that fills no record; its
    first token is the last record's last token (contiguous packing), so tokens = records · context + len(tail). In
    packing 'lines' every record is independent: tokens = records · (context + 1), of which ``padding_tokens`` pad short
    lines; ``truncated_tokens`` counts what was cut from long ones.
    """

    documents: int
    tokens: int
    records: int
    tail: tuple[int, ...]
    utf8_bytes: int
    words: int
    word_rule: str
    dropped: Mapping[str, int] = field(default_factory=dict)
    truncated_tokens: int = 0
    padding_tokens: int = 0
    shards: tuple[Shard, ...]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A committed data set. ``settings`` holds all choices that determine its bytes, to compare with a new command."""

    format_version: int = FORMAT_VERSION
    code_version: str = CODE_VERSION
    corpus: Corpus
    tokenizer: Tokenizer
    record: Record
    settings: Mapping[str, Any] = field(default_factory=dict)
    parts: Mapping[str, Part]

    def dumps(self) -> str:
        """Returns the manifest as JSON text."""
        return json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False) + "\n"

    def part(self, name: str) -> Part:
        """Returns a part by name; UserError lists the existing parts."""
        if name not in self.parts:
            raise UserError(f"the data set has no part {name!r}: it has {', '.join(self.parts)}")
        return self.parts[name]

    def check(
        self,
        *,
        tokenizer_fingerprint: str | None = None,
        end_of_text: int | None = None,
        vocabulary_size: int | None = None,
    ) -> None:
        """Rejects a data set that differs from what is expected; None expects nothing.

        Raises:
            UserError: names both sides of the first difference.
        """
        pairs = (
            ("tokenizer fingerprint", self.tokenizer.fingerprint, tokenizer_fingerprint),
            ("end-of-text id", self.tokenizer.end_of_text, end_of_text),
            ("vocabulary size", self.tokenizer.vocabulary_size, vocabulary_size),
        )
        for what, here, expected in pairs:
            if expected is not None and here != expected:
                raise UserError(
                    f"the data set's {what} is {here} (tokenizer {self.tokenizer.name!r}), but {expected} is expected"
                )

    def check_files(self, directory: str, *parts: str) -> None:
        """Rejects a directory in which a shard is missing, has the wrong size, or cannot be read by this user.

        Checks the shards of those ``parts`` that exist, or of all parts if none is named.
        """
        listed = storage.list_files(directory, deep=False) or []
        sizes = {path.rpartition("/")[2]: size for path, size in listed}
        for shard in (shard for name in parts or self.parts if name in self.parts for shard in self.parts[name].shards):
            path, size = storage.join(directory, shard.file), sizes.get(shard.file)
            if size != shard.bytes:
                state = "is missing" if size is None else f"has {size} bytes"
                raise UserError(f"{directory}: {shard.file} {state}, but the manifest says {shard.bytes} bytes")
            if not storage.is_remote(path) and not os.access(path, os.R_OK):
                raise UserError(f"{path}: cannot be read (Permission denied)")


def _part(data: dict[str, Any]) -> Part:
    shards = tuple(Shard(**shard) for shard in data["shards"])
    return Part(**data | {"tail": tuple(data["tail"]), "shards": shards})


def _contradiction(manifest: Manifest) -> str:
    """Returns what contradicts itself in a manifest, or an empty string."""
    if manifest.tokenizer.vocabulary_size > 65_536:
        return f"a vocabulary of {manifest.tokenizer.vocabulary_size}, but records hold ids below 65,536"
    if not 0 <= manifest.tokenizer.end_of_text < manifest.tokenizer.vocabulary_size:
        return f"end-of-text id {manifest.tokenizer.end_of_text} outside {manifest.tokenizer.vocabulary_size} ids"
    size = manifest.record.bytes
    for name, part in manifest.parts.items():
        if sum(shard.records for shard in part.shards) != part.records:
            return f"{part.records} records of {name}, but its shards hold another number"
        for shard in part.shards:
            if shard.bytes != shard.records * size:
                return f"{shard.bytes} bytes in {shard.file}, but {shard.records} records of {size} bytes"
    return ""


def loads(text: str | bytes, where: str) -> Manifest:
    """Parses a manifest; ``where`` is named in errors.

    Raises:
        UserError: it is no manifest, has another format version, or contradicts itself.
    """
    try:
        data = json.loads(text)
        version = data.get("format_version")
        if version != FORMAT_VERSION:
            raise UserError(f"{where}: manifest of format version {version!r}; this code reads {FORMAT_VERSION}")
        data["corpus"]["notes"] = tuple(data["corpus"].get("notes", ()))
        manifest = Manifest(
            format_version=version,
            code_version=data["code_version"],
            corpus=Corpus(**data["corpus"]),
            tokenizer=Tokenizer(**data["tokenizer"]),
            record=Record(**data["record"]),
            settings=data.get("settings", {}),
            parts={name: _part(part) for name, part in data["parts"].items()},
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{where} is not a manifest of this pipeline: {type(error).__name__} {error}") from error
    if contradiction := _contradiction(manifest):
        raise UserError(f"{where} contradicts itself: {contradiction}")
    return manifest


def load(directory: str) -> Manifest:
    """Reads the manifest of a data directory (local or gs://).

    Raises:
        UserError: there is none, or it is broken.
    """
    path = storage.join(directory, FILE_NAME)
    try:
        text = storage.read_bytes(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(
            f"{directory} holds no data set: there is no {FILE_NAME} in it; `make shards` makes one"
        ) from error
    return loads(text, path)


def read_tokenizer(directory: str) -> bytes:
    """Reads the tokenizer.json next to a manifest and checks it against the manifest's fingerprint.

    Raises:
        UserError: it is missing or not the one that the manifest names.
    """
    manifest, path = load(directory), storage.join(directory, TOKENIZER_FILE)
    try:
        data = storage.read_bytes(path)
    except FileNotFoundError as error:
        raise UserError(
            f"{path} is missing, though the manifest names tokenizer {manifest.tokenizer.name!r}"
        ) from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != manifest.tokenizer.fingerprint:
        raise UserError(f"{path} has sha256 {digest}, but the manifest says {manifest.tokenizer.fingerprint}")
    return data
