"""Sharding OpenWebText's archives: their speed, the share of decompression, and the bytes after a kill.

Packs this machine's text as OpenWebText is published: tars of 390 `.txt` files, each compressed by xz, in one
`openwebtext.tar.xz`. The text is the half of the documents that zlib compresses least, in random order: OpenWebText has
3.1 bytes of text per byte of its archives, and the lower this ratio, the longer decompression takes. Sharding is timed
as a user would time it, from the start of the process to committed, synced shards, in turns with Parquet of the same
text; each one's best turn counts. CPU seconds cover all its processes. If other work shares the cores (a load average
above 3), text per CPU second tells more than text per second. Finally a run is killed half-way and repeated, and its
manifest, which has each shard's checksum, is compared with the others'.
"""

import io
import itertools
import lzma
import multiprocessing
import os
import pathlib
import random
import re
import resource
import signal
import statistics
import subprocess
import tarfile
import tempfile
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from tools.benchmarks import shard, text

TEXT_BYTES = 400_000_000  # the start takes a second, and a corpus takes an hour
PAGES = 390  # per OpenWebText archive, on average
TURNS = 3  # other work can only slow a turn down: the best counts


def run() -> dict[str, object]:
    """Measures, prints a table and returns the figures."""
    documents = dense(text.gather(TEXT_BYTES)[0])
    unique = sum(len(document.encode()) for document in documents)
    with tempfile.TemporaryDirectory(prefix="bench-archives-") as name:
        folder = pathlib.Path(name)
        archive, parquet = folder / "openwebtext.tar.xz", folder / "text.parquet"
        size = pack(archive, text.varied(documents, TEXT_BYTES))
        shard.write_parquet(parquet, text.varied(documents, TEXT_BYTES))
        turns: dict[str, list[tuple[float, float]]] = {"parquet": [], "openwebtext": []}
        for turn in range(TURNS):
            for dataset, source in (("parquet", parquet), ("openwebtext", archive)):
                before = _cpu_seconds()
                seconds, printed, _ = shard.shard(dataset, source, folder / f"{dataset}-{turn}")
                turns[dataset].append((seconds, _cpu_seconds() - before))
        load = os.getloadavg()[1]
        _same_after_a_kill(archive, folder, seconds / 2)
        percent = re.search(r"decompression took (\d+) %", printed)
        compression = size / archive.stat().st_size
    speeds = {dataset: [size / 1e6 / min(column) for column in zip(*of, strict=True)] for dataset, of in turns.items()}
    figures: dict[str, object] = {
        "mb_per_s": round(speeds["openwebtext"][0], 2),
        "mb_per_cpu_second": round(speeds["openwebtext"][1], 2),
        "parquet_mb_per_s": round(speeds["parquet"][0], 2),
        "parquet_mb_per_cpu_second": round(speeds["parquet"][1], 2),
        "decompression_share": int(percent.group(1)) / 100 if percent else 0.0,
        "text_bytes_per_archive_byte": round(compression, 2),
        "same_bytes_after_a_kill": "yes",
        "load_average": round(load, 1),
    }
    print(f"  {size / 1e6:,.0f} MB of text, {min(unique, size) / 1e6:,.0f} MB of it unique, {os.cpu_count()} cores")
    print("\n".join(f"  {figure.replace('_', ' ')}: {value}" for figure, value in figures.items()))
    return figures


def dense(documents: list[str]) -> list[str]:
    """Returns the half of the documents that zlib compresses least, in random order: neighbors are unrelated pages."""
    shares = [len(zlib.compress(document.encode())) / len(document.encode()) for document in documents]
    least = statistics.median(shares)
    chosen = [document for document, share in zip(documents, shares, strict=True) if share >= least]
    random.Random(0).shuffle(chosen)
    return chosen


def pack(path: pathlib.Path, pages: Iterator[str]) -> int:
    """Writes texts as OpenWebText is published; returns the bytes of text."""
    size = 0
    context = multiprocessing.get_context("spawn")
    with tarfile.open(path, "w:xz", preset=0) as outer, ProcessPoolExecutor(mp_context=context) as pool:
        batches = iter(lambda: list(itertools.islice(pages, PAGES)), [])
        for number, (archive, bytes_of_text) in enumerate(pool.map(_inner, batches, itertools.count())):
            info = tarfile.TarInfo(f"openwebtext/urlsf_subset{number // 1000:02d}-{number % 1000}_data.xz")
            info.size = len(archive)
            outer.addfile(info, io.BytesIO(archive))
            size += bytes_of_text
    return size


def _inner(pages: list[str], number: int) -> tuple[bytes, int]:
    packed, size = io.BytesIO(), 0
    with tarfile.open(fileobj=packed, mode="w") as writer:
        for page, content in enumerate(pages):
            info = tarfile.TarInfo(f"{number * PAGES + page:07d}-{number:032x}.txt")
            info.size = len(content.encode())
            size += info.size
            writer.addfile(info, io.BytesIO(content.encode()))
    return lzma.compress(packed.getvalue()), size


def _cpu_seconds() -> float:
    """Returns the CPU seconds of all processes that this one has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _same_after_a_kill(archive: pathlib.Path, folder: pathlib.Path, seconds: float) -> None:
    """Kills a run after some seconds, repeats it, and compares the shards' checksums with the first run's."""
    output = folder / "killed"
    process = subprocess.Popen(
        shard.command_line("openwebtext", archive, output),
        cwd=shard.ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGKILL)
    if process.wait() != -signal.SIGKILL:
        raise RuntimeError("the run ended before it was killed")
    shard.shard("openwebtext", archive, output)
    if (output / "manifest.json").read_bytes() != (folder / "openwebtext-0" / "manifest.json").read_bytes():
        raise RuntimeError("after a kill the shards differ")
