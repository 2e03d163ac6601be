"""Sharding speed and memory: this pipeline, a nanoGPT-style preparation and the bare engine on the same text.

Ours is timed as a user would, from the start of the process to committed, synced shards; the baseline without its
imports. Memory is the sum of the peak resident sizes of all processes that live at one time. Shared pages count in each
process, so this is an upper bound.
"""

import multiprocessing
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.data.format import manifest, tokenizer
from pipeline.progress import duration
from tools.bench import stated
from tools.benchmarks import text

ROOT = pathlib.Path(__file__).resolve().parents[2]
SPEED_BYTES = 1_000_000_000  # startup takes a second, a corpus takes hours
MEMORY_BYTES = (60_000_000, 6_000_000_000)
ENGINE_BATCH = 2_000  # documents: large enough for every core, small enough for the memory
TURNS = 3  # other work can only slow a turn down: the best counts


def run() -> dict[str, float]:
    """Measures, prints a table and returns the figures."""
    from tools.benchmarks import nanogpt_style

    documents, unique = text.gather(SPEED_BYTES)
    with tempfile.TemporaryDirectory(prefix="bench-shard-") as name:
        folder = pathlib.Path(name)
        source = folder / "text.parquet"
        size = write_parquet(source, text.varied(documents, SPEED_BYTES))
        ours = engine = float("inf")
        for turn in range(TURNS):
            engine = min(engine, _in_new_process(_bare_engine, source))
            ours = min(ours, shard("parquet", source, folder / f"ours-{turn}")[0])
        usual = _in_new_process(nanogpt_style.prepare, source, folder / "usual.bin", os.cpu_count())
        _same_length(folder / "ours-0", folder / "usual.bin")
        memory = [_memory(documents, total, folder) for total in MEMORY_BYTES]
    figures = {
        "ratio_to_nanogpt": usual / ours,
        "share_of_engine": engine / ours,
        "peak_rss_bytes": max(memory),
        "peak_rss_bytes_at_60_mb": memory[0],
        "peak_rss_bytes_at_6_gb": memory[1],
        "mb_per_s": size / 1e6 / ours,
        "nanogpt_mb_per_s": size / 1e6 / usual,
        "engine_mb_per_s": size / 1e6 / engine,
    }
    print(f"  {size / 1e6:,.0f} MB of text, {min(unique, size) / 1e6:,.0f} MB of it unique, {os.cpu_count()} cores")
    for label, seconds in (("this pipeline", ours), ("nanoGPT-style preparation", usual), ("bare engine", engine)):
        print(f"  {label:<28} {size / 1e6 / seconds:8.1f} MB/s   {duration(seconds):>12}   {seconds / ours:6.2f}×")
    for total, peak in zip(MEMORY_BYTES, memory, strict=True):
        print(f"  peak memory of all processes at {total / 1e6:,.0f} MB: {peak / 1e6:,.0f} MB")
    return {name: round(value, 4) for name, value in figures.items()}


def write_parquet(path: pathlib.Path, documents: Iterable[str]) -> int:
    """Writes texts as a Parquet file; returns the bytes of text."""
    size, rows = 0, []
    with pq.ParquetWriter(path, pa.schema([("text", pa.string())]), compression="snappy") as writer:
        for document in documents:
            rows.append(document)
            size += len(document.encode())
            if len(rows) == 2_000:
                writer.write_table(pa.table({"text": rows}))
                rows = []
        writer.write_table(pa.table({"text": rows}))
    return size


def _in_new_process(measure: Callable[..., float], *arguments: object) -> float:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, *arguments).result()


def _bare_engine(source: pathlib.Path) -> float:
    """Returns the seconds of ``fastokens.encode_batch_flat`` on all cores, with documents already in memory."""
    engine = tokenizer.load("gpt2")._engine
    documents = pq.read_table(source)["text"].to_pylist()
    began = time.perf_counter()
    for start in range(0, len(documents), ENGINE_BATCH):
        engine.encode_batch_flat(documents[start : start + ENGINE_BATCH], split_special_tokens=True)
    return time.perf_counter() - began


def command_line(dataset: str, source: pathlib.Path, output: pathlib.Path) -> list[str]:
    """Returns the command that shards a source with gin/datasets/``dataset``.gin, into 8 shards."""
    words = [sys.executable, "-m", "pipeline.shard", f"--gin_file=datasets/{dataset}.gin", f"--source={source}"]
    return [*words, f"--output={output}", "--gin_param=shard.shards=8"]


def shard(dataset: str, source: pathlib.Path, output: pathlib.Path) -> tuple[float, str, int]:
    """Runs ``command_line``; returns (seconds, what it printed, peak bytes of memory)."""
    command = command_line(dataset, source, output)
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    peak = [0]
    watcher = threading.Thread(target=_watch, args=(process, peak))
    watcher.start()
    printed, errors = process.communicate()
    seconds = time.perf_counter() - began
    watcher.join()
    if process.returncode:
        raise RuntimeError(f"sharding failed: {errors[-2000:]}")
    return seconds, printed, peak[0]


def _watch(process: subprocess.Popen, peak: list[int]) -> None:
    while process.poll() is None:
        peaks = [stated(f"/proc/{pid}/status", r"VmHWM:\s+(\d+) kB") for pid in _family(process.pid)]
        peak[0] = max(peak[0], 1024 * sum(int(kib or 0) for kib in peaks))  # without those that have ended
        time.sleep(0.02)


def _family(pid: int) -> list[int]:
    """Returns a process and its descendants."""
    try:
        children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:
        return [pid]
    return [pid, *(member for child in children for member in _family(int(child)))]


def _same_length(ours: pathlib.Path, usual: pathlib.Path) -> None:
    """Refuses to compare speeds if the two made different numbers of tokens."""
    tokens = sum(part.tokens for part in manifest.load(str(ours)).parts.values())
    if tokens != usual.stat().st_size // 2:
        raise RuntimeError(f"{tokens} tokens here, {usual.stat().st_size // 2} in the nanoGPT-style file")


def _memory(documents: list[str], total: int, folder: pathlib.Path) -> int:
    source, output = folder / f"memory-{total}.parquet", folder / f"memory-{total}"
    write_parquet(source, text.varied(documents, total))
    peak = shard("parquet", source, output)[2]
    source.unlink()
    return peak
