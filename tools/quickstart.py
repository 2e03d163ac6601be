"""The whole pipeline in a few minutes: corpus, tokenizer, shards, a trained ALGPT2, and three baselines.

    make quickstart            # python -m tools.quickstart

The baselines, on the same text: a model that knows only token frequencies, bz2, and ``xz -9e``. If the run is killed,
repeat the command to resume it; a finished run says that it is done.
"""

import bz2
import json
import lzma
import math
import pathlib
import subprocess
import sys

import numpy as np

from pipeline import cli, storage
from pipeline.data.format import manifest, records, tokenizer

TOKENIZER = "data/tokenizers/cpython-8192.json"
DATA = "data/quickstart"
RUN = "runs/quickstart"
COMMANDS = (
    ("pipeline.tokenizer", f"--output={TOKENIZER}", "--size=8192"),
    (
        "pipeline.shard",
        "--gin_file=datasets/cpython.gin",
        f"--gin_param=shard.tokenizer={TOKENIZER}",
        f"--output={DATA}",
    ),
    ("pipeline.train", "--gin_file=quickstart.gin", "--tpu=virtual-2", f"--data={DATA}", f"--run_dir={RUN}"),
)


def unigram_nats_per_token(counts: np.ndarray, labels: np.ndarray) -> float:
    """Returns the loss on ``labels`` of the training frequencies ``counts`` [V], plus one each."""
    probabilities = (counts + 1) / (counts.sum() + len(counts))
    return float(-np.log(probabilities[labels]).mean())


def baselines() -> dict[str, float]:
    """Returns the figures of the unigram model, bz2 and xz on the validation part of ``DATA``."""
    data = manifest.load(DATA)
    train, validation = data.part("train"), data.part("validation")
    counts = np.bincount(_stream(data, train), minlength=data.tokenizer.vocabulary_size)
    tokens = _stream(data, validation)
    nats = unigram_nats_per_token(counts, tokens[1:])
    text = tokenizer.load(f"{DATA}/{manifest.TOKENIZER_FILE}").decode(tokens[tokens != data.tokenizer.end_of_text])
    raw = text.encode()
    return {
        "unigram_nats_per_token": nats,
        "unigram_bits_per_byte": nats * (len(tokens) - 1) / math.log(2) / validation.utf8_bytes,
        "bz2_bits_per_byte": 8 * len(bz2.compress(raw, compresslevel=9)) / len(raw),
        "xz_bits_per_byte": 8 * len(lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME)) / len(raw),
    }


def _stream(data: manifest.Manifest, part: manifest.Part) -> np.ndarray:
    """Returns a part's whole token stream [tokens]."""
    shards = [np.fromfile(f"{DATA}/{shard.file}", np.uint8) for shard in part.shards]
    pieces = [records.decode(shard, data.record.context)[:, :-1].ravel() for shard in shards]
    return np.concatenate([*pieces, np.asarray(part.tail, np.uint16)]).astype(np.int64)


def table(summary: dict) -> str:
    """Returns the closing table."""
    train, validation, baseline = summary["train"], summary["validation"], summary["baseline"]
    mfu = train["mfu"] if "mfu" in train else train["share_of_matmul_peak"]  # older runs' name
    better = 1 - validation["nats_per_token"] / baseline["unigram_nats_per_token"]
    rows = [
        ("parameters", f"{summary['parameters']:,}"),
        ("tokens seen", f"{summary['tokens_seen']:,} in {summary['steps']:,} steps"),
        ("train loss", f"{train['nats_per_token']:.3f} nats per token"),
        ("validation loss", f"{validation['nats_per_token']:.3f} nats per token"),
        ("  unigram model", f"{baseline['unigram_nats_per_token']:.3f} nats per token (ours is {better:.0%} lower)"),
        ("validation", f"{validation['bits_per_byte']:.3f} bits per byte"),
        ("  unigram model", f"{baseline['unigram_bits_per_byte']:.3f} bits per byte"),
        ("  bz2 -9", f"{baseline['bz2_bits_per_byte']:.3f} bits per byte"),
        ("  xz -9e", f"{baseline['xz_bits_per_byte']:.3f} bits per byte"),
        ("speed", f"{train['tokens_per_second']:,.0f} tokens per second"),
        ("share of peak", f"{mfu:.0%} of this machine's float32 matrix multiply"),
    ]
    return "\n".join(f"  {name:<17} {value}" for name, value in rows)


def main() -> int:
    """Runs the commands, then compares the run with the baselines."""
    for command in COMMANDS:
        print(f"\n$ python -m {' '.join(command)}", flush=True)
        code = subprocess.run([sys.executable, "-m", *command], check=False).returncode
        if code:
            return code
    path = pathlib.Path(RUN, "summary.json")
    if not path.exists():  # a signal stopped the run, which said so
        return 0
    summary = json.loads(path.read_text(encoding="utf-8"))
    if "xz_bits_per_byte" not in summary.get("baseline", {}):  # older runs have no xz figure
        summary["baseline"] = baselines()
        storage.replace_bytes((json.dumps(summary, indent=2, ensure_ascii=False) + "\n").encode(), str(path))
    print(f"\n{table(summary)}\n\nsample:\n{summary['sample']}\n\nrun directory: {RUN}")
    return 0


if __name__ == "__main__":
    cli.run(main)
