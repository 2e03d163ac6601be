"""The bare engine, to compare with: ``fastokens.encode_batch_flat`` on all cores, its documents already in memory.

    python tools/benchmarks/bare_engine.py SOURCE.parquet

Prints the seconds of the encoding alone.
"""

import sys
import time

import pyarrow.parquet as pq

from pipeline.data.format import tokenizer

BATCH = 2_000  # documents: large enough for every core, small enough for the memory


def main(source: str) -> None:
    """Loads, then encodes."""
    engine = tokenizer.load("gpt2")._engine
    documents = pq.read_table(source)["text"].to_pylist()
    began = time.perf_counter()
    for start in range(0, len(documents), BATCH):
        engine.encode_batch_flat(documents[start : start + BATCH], split_special_tokens=True)
    print(time.perf_counter() - began)


if __name__ == "__main__":
    main(sys.argv[1])
