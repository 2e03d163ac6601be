"""Stage (c): packs a part's token stream into records, and a contiguous block of them into each shard."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

import google_crc32c
import numpy as np

from pipeline.data.format import records
from pipeline.data.format.settings import ShardConfig
from pipeline.data.sharding.token_stream import Stream
from pipeline.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Packing:
    """How a stream is cut into records. Record k is tokens [k·stride, k·stride + context + 1).

    Contiguous packing overlaps by one token (stride = context); lines do not (stride = context + 1).
    """

    context: int
    kind: str

    @property
    def stride(self) -> int:
        """Tokens from one record's start to the next."""
        return self.context + (self.kind == "lines")

    def records(self, tokens: int) -> int:
        """Whole records in a stream of this many tokens."""
        return max(tokens - (self.context + 1), -self.stride) // self.stride + 1

    def tail(self, stream: Stream) -> list[int]:
        """The stream's end that fills no record; in contiguous packing it begins with the last record's last token."""
        start = self.records(stream.tokens) * self.stride
        return [int(token) for chunk in stream.read(start, stream.tokens) for token in chunk]


def blocks(count: int, shards: int) -> list[tuple[int, int]]:
    """Splits records into contiguous (first, count) blocks whose sizes differ by at most one, larger ones first."""
    size, larger = divmod(count, shards)
    return [(s * size + min(s, larger), size + (s < larger)) for s in range(shards)]


@dataclass(frozen=True)
class Block:
    """The work of one shard."""

    part: str
    shard: int
    shards: int
    first: int
    count: int

    @property
    def file(self) -> str:
        """Its name in the output, as in train-00003-of-00256.tfrecord."""
        return f"{self.part}-{self.shard:05d}-of-{self.shards:05d}.tfrecord"


def plan_blocks(config: ShardConfig, packing: Packing, tokens: Mapping[str, int]) -> list[Block]:
    """Divides every part's records among its shards; ``tokens`` is the length of each part's stream.

    Raises:
        UserError: the train part has no text, or fewer records than shards.
    """
    work = []
    for part, length in tokens.items():
        count = packing.records(length)
        shards = config.shards if part == "train" else min(config.evaluation_shards, count)
        if part == "train" and not count:
            raise UserError(f"the train part's {length} tokens do not fill one record of {config.context + 1}")
        if part == "train" and shards > count:
            raise UserError(
                f"shard.shards = {shards} is more than the train part's {count} records of {config.context} tokens: "
                f"take at most {count}"
            )
        work += [Block(part, s, shards, *block) for s, block in enumerate(blocks(count, shards) if shards else [])]
    if "train" not in tokens:
        raise UserError("the split left no document for the train part: lower shard.validation_fraction")
    return work


def rows(stream: Stream, packing: Packing, first: int, count: int) -> Iterator[np.ndarray]:
    """Yields the ids of ``count`` records from record ``first`` on, uint16 [some, context + 1]."""
    width, stride = packing.context + 1, packing.stride
    start = first * stride
    rest = np.empty(0, np.uint16)
    for chunk in stream.read(start, start + (count - 1) * stride + width):
        tokens = np.concatenate([rest, chunk])
        whole = packing.records(len(tokens))
        if whole:
            yield np.lib.stride_tricks.sliding_window_view(tokens, width)[::stride][:whole]
        rest = tokens[whole * stride :]


def write_shard(file: BinaryIO, stream: Stream, packing: Packing, first: int, count: int) -> int:
    """Writes a block of records and returns the crc32c of the bytes.

    Raises:
        RuntimeError: the stream gave another number of records, which would be a bug.
    """
    crc = written = 0
    for tokens_RT in rows(stream, packing, first, count):
        data = records.encode(tokens_RT)
        data.flags.writeable = False  # google_crc32c copies anything else
        file.write(data.data)
        crc = google_crc32c.extend(crc, data)
        written += len(tokens_RT)
    if written != count:
        raise RuntimeError(f"{written} records were cut where {count} were planned")
    return crc
