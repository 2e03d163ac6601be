"""Corpus readers: each yields the documents of a source as (id, text), streaming."""

from collections.abc import Callable

from pipeline.data.corpora.base import Corpus
from pipeline.data.corpora.cpython import CPython
from pipeline.data.corpora.jsonl import JSONLines
from pipeline.data.corpora.openwebtext import OpenWebText
from pipeline.data.corpora.parquet import Parquet
from pipeline.data.corpora.text import Text
from pipeline.data.corpora.wikitext import WikiText
from pipeline.data.format.settings import ShardConfig
from pipeline.errors import UserError

# By the value of ``shard.corpus``.
READERS: dict[str, Callable[[ShardConfig, str | None], Corpus]] = {
    "cpython": CPython,
    "wikitext": WikiText,
    "text": Text,
    "jsonl": JSONLines,
    "parquet": Parquet,
    "openwebtext": OpenWebText,
}


def open_corpus(config: ShardConfig, source: str | None) -> Corpus:
    """Lists the source and returns the reader that the settings name.

    Raises:
        UserError: the source is missing, empty or unreadable, or the settings do not suit the reader.
    """
    corpus = READERS[config.corpus](config, source)
    if config.validation_fraction is None and not corpus.own_parts:
        raise UserError(
            f"corpus {config.corpus!r} has no parts of its own here: set shard.validation_fraction, such as 0.005"
        )
    return corpus
