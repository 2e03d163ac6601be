"""The sharder's settings, bound by gin as ``shard``. Imports only the standard library."""

from dataclasses import dataclass
from typing import Literal


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)


@dataclass(frozen=True, kw_only=True)
class ShardConfig:
    """The settings of a data set: with the source, they determine its bytes.

    Attributes:
        corpus: the source's reader: 'cpython', 'wikitext', 'text', 'jsonl', 'parquet' or 'openwebtext'.
        name: what the manifest calls the corpus.
        tokenizer: 'gpt2', or the path of a tokenizer.json.
        shards: files of the train part; a multiple of the number of hosts that will read them.
        evaluation_shards: files of each other part.
        seed: salts the hash of document ids that orders and splits the corpus.
        context: tokens per record; every training context must divide it.
        packing: 'contiguous' cuts one stream of documents, each followed by end-of-text; 'lines' makes every line of
            every document a separate record, padded or truncated.
        order: 'hash' shuffles the documents by the salted hash of their ids; 'source' keeps the source's order.
        validation_fraction: share of the documents that the salted hash sends to the validation part; 0 makes none.
            None if the corpus has its own parts.
        documents: what a document of a text corpus is: a 'file', a 'line' or an 'article'.
        field: the column or key that holds the text, in Parquet and JSONL.
        minimum_characters: shorter documents are dropped and counted; 0 drops only empty ones.
        word_rule: how to count words for word perplexity: 'whitespace' counts runs of non-white-space,
            'whitespace+newline' also every newline (WikiText's convention).
    """

    corpus: Literal["cpython", "wikitext", "text", "jsonl", "parquet", "openwebtext"]
    name: str
    tokenizer: str = "gpt2"
    shards: int = 256
    evaluation_shards: int = 1
    seed: int = 0
    context: int = 1024
    packing: Literal["contiguous", "lines"] = "contiguous"
    order: Literal["hash", "source"] = "hash"
    validation_fraction: float | None = 0.005
    documents: Literal["file", "line", "article"] = "file"
    field: str = "text"
    minimum_characters: int = 0
    word_rule: Literal["whitespace", "whitespace+newline"] = "whitespace"

    def __post_init__(self) -> None:
        for what, count in (("shards", self.shards), ("evaluation_shards", self.evaluation_shards)):
            _require(1 <= count <= 99_999, f"{what} = {count}: expected 1 to 99,999")
        _require(1 <= self.context <= 65_536, f"context = {self.context}: expected 1 to 65,536 tokens")
        least = self.minimum_characters
        _require(0 <= least <= 1_000_000, f"minimum_characters = {least}: expected 0 to 1,000,000")
        fraction = self.validation_fraction
        if fraction is not None:
            _require(0 <= fraction < 1, f"validation_fraction = {fraction}: expected at least 0 and below 1")
