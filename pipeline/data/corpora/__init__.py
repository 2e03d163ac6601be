"""Corpus readers: each yields the documents of a source as (id, text), streaming."""

from pipeline.data.corpora.base import Corpus
from pipeline.data.format.settings import ShardConfig
from pipeline.errors import UserError


def open_corpus(config: ShardConfig, source: str | None) -> Corpus:
    """Lists the source and returns the reader that the settings name.

    Raises:
        UserError: the source is missing, empty or unreadable, or the settings do not fit the reader.
    """
    corpus = _open(config, source)
    if config.validation_fraction is None and not corpus.own_parts:
        raise UserError(
            f"corpus {config.corpus!r} has no parts of its own here: set shard.validation_fraction, such as 0.005"
        )
    return corpus


def _open(config: ShardConfig, source: str | None) -> Corpus:
    if config.corpus == "cpython":
        from pipeline.data.corpora.cpython import CPython

        if source:
            raise UserError(f"corpus 'cpython' takes no --source ({source!r}): it is part of the running interpreter")
        return CPython(config)
    if config.corpus == "wikitext":
        from pipeline.data.corpora.wikitext import WikiText

        return WikiText(config, source)
    if config.corpus == "text":
        from pipeline.data.corpora.text import Text

        return Text(config, source)
    if config.corpus == "jsonl":
        from pipeline.data.corpora.jsonl import JSONLines

        return JSONLines(config, source)
    if config.corpus == "parquet":
        from pipeline.data.corpora.parquet import Parquet

        return Parquet(config, source)
    from pipeline.data.corpora.openwebtext import OpenWebText

    return OpenWebText(config, source)
