r"""Checks this machine before a run: one line per check: ok, warning or fault, and what to do about it.

    python -m tools.doctor [--path=runs] [--bucket=gs://BUCKET/FOLDER] \
        [--zone=us-central1-a]

Exit code 1 if there is a fault. No check waits longer than a few seconds for another machine.
"""

import dataclasses
import os
import pathlib
import platform
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from absl import flags

from pipeline import cli, storage
from pipeline.devices import wheels
from pipeline.errors import UnavailableError, UserError, pip_install
from pipeline.runs.sinks import wandb
from tools.bench import stated

if TYPE_CHECKING:
    from pipeline.storage.gcs import Location

FLAGS = flags.FLAGS
ROOT = pathlib.Path(__file__).resolve().parent.parent
OK, WARNING, FAULT = "ok", "warning", "fault"
PYTHONS = (3, 11), (3, 13)  # the oldest and newest that requirements.txt supports; make test-pythons tests them
TIMEOUT_SECONDS = 5
LEAST_DISK, LEAST_MEMORY = 20e9, 4e9  # bytes: checkpoints of GPT-2 small and its shards; tracing and compiling it
CPU_FEATURES = {"avx": FAULT, "avx2": WARNING, "fma": WARNING}  # TensorFlow's wheels abort without AVX


class Finding(NamedTuple):
    """The result of a check: OK, WARNING or FAULT, and a sentence."""

    level: str
    text: str


def main() -> int:
    """Runs every check and prints its findings as they come."""
    checks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("python", python),
        ("packages", packages),
        ("wheels", wheels_together),
        ("processor", processor),
        ("memory", memory),
        ("disk", lambda: disk(FLAGS.path)),
        ("bucket", lambda: bucket(FLAGS.bucket, FLAGS.zone)),
        ("wandb", wandb_login),
        ("step", one_step),
    ]
    worst = OK
    for name, check in checks:
        for finding in check():
            print(f"{finding.level:<8} {name:<10} {finding.text}")
            worst = FAULT if FAULT in (worst, finding.level) else worst
    return worst == FAULT


def python() -> Iterator[Finding]:
    """Checks the interpreter: the pins have wheels only for some versions."""
    version = platform.python_version()
    oldest, newest = PYTHONS
    if oldest <= sys.version_info[:2] <= newest:
        yield Finding(OK, f"CPython {version}")
    else:
        first, last = (".".join(map(str, python)) for python in PYTHONS)
        yield Finding(WARNING, f"Python {version}; the pinned wheels are for CPython {first} to {last}")


def pins(file: pathlib.Path) -> dict[str, str]:
    """Returns the versions that a requirements file pins, without the files that it includes."""
    return dict(re.findall(r"^([\w.-]+)==(\S+)", file.read_text(encoding="utf-8"), re.MULTILINE))


def packages() -> Iterator[Finding]:
    """Compares the installed packages with the requirements file; a TPU VM has a separate one."""
    file = "requirements-tpu.txt" if wheels.installed("tensorflow-tpu") else "requirements.txt"
    pinned = pins(ROOT / file)
    versions = {name: wheels.installed(name) for name in pinned}
    missing = [name for name, version in versions.items() if version is None]
    other = [
        f"{name} {versions[name]} (tested: {pin})" for name, pin in pinned.items() if versions[name] not in (None, pin)
    ]
    if missing:
        yield Finding(FAULT, f"missing: {', '.join(missing)}; {pip_install(f'-r {file}')}")
    if other:
        yield Finding(WARNING, f"other versions than those tested together: {', '.join(other)}")
    if not missing and not other:
        yield Finding(OK, f"all {len(pinned)} have their pinned version")


def wheels_together() -> Iterator[Finding]:
    """Checks TensorFlow and libtpu: some pairs abort the process."""
    try:
        wheels.check_wheels()
    except UserError as error:
        yield Finding(FAULT, str(error))
        return
    tpu = wheels.installed("tensorflow-tpu")
    yield Finding(OK, f"tensorflow-tpu {tpu} and its libtpu" if tpu else "tensorflow without TPU support: for CPU, GPU")


def processor(cpuinfo: str = "/proc/cpuinfo") -> Iterator[Finding]:
    """Checks the vector instructions that TensorFlow's wheels use."""
    features = stated(cpuinfo, r"flags\s*:(.*)$").split()
    if not features:
        yield Finding(WARNING, f"{platform.machine()}: its features cannot be read")
        return
    for feature, level in CPU_FEATURES.items():
        if feature not in features:
            effect = "TensorFlow cannot start" if level == FAULT else "training on this CPU will be slow"
            yield Finding(level, f"no {feature}: {effect}")
    if all(feature in features for feature in CPU_FEATURES):
        yield Finding(OK, f"{os.cpu_count()} cores with {', '.join(CPU_FEATURES)}")


def memory(meminfo: str = "/proc/meminfo") -> Iterator[Finding]:
    """Checks the available memory, by the kernel's own estimate."""
    available = stated(meminfo, r"MemAvailable:\s+(\d+) kB")
    if not available:
        yield Finding(WARNING, "how much is available cannot be read")
        return
    free = 1024 * int(available)
    needs = f"; tracing and compiling GPT-2 takes {LEAST_MEMORY / 1e9:.0f} GB" if free < LEAST_MEMORY else ""
    yield Finding(WARNING if needs else OK, f"{free / 1e9:.1f} GB available{needs}")


def disk(path: str) -> Iterator[Finding]:
    """Checks the free space where runs and unfinished work would be written."""
    try:
        storage.check_writable(path)
    except UserError as error:
        yield Finding(FAULT, f"{error}; choose another with --path")
        return
    folder = storage.nearest_existing(path)
    free = shutil.disk_usage(folder).free
    needs = f"; shards and checkpoints take {LEAST_DISK / 1e9:.0f}" if free < LEAST_DISK else ""
    yield Finding(WARNING if needs else OK, f"{free / 1e9:.1f} GB free in {folder}{needs}")


def bucket(path: str | None, zone: str | None) -> Iterator[Finding]:
    """Checks that a bucket can be written to and is in the TPU's region."""
    if not path:
        yield Finding(OK, "none named (--bucket=gs://…); a pod needs one for data and runs")
        return
    if not storage.is_remote(path):
        raise UserError(f"--bucket={path}: expected gs://BUCKET or gs://BUCKET/FOLDER")
    from pipeline.devices import regions
    from pipeline.storage import gcs, gcs_client

    gcs_client.TIMEOUTS = dataclasses.replace(
        gcs_client.TIMEOUTS, give_up=TIMEOUT_SECONDS, connect=3, silence=TIMEOUT_SECONDS, credentials=TIMEOUT_SECONDS
    )
    try:
        storage.check_writable(path)
    except (UserError, UnavailableError, FileNotFoundError) as error:
        yield Finding(FAULT, str(error))
        return
    yield region(gcs.location(path), regions.zone_of_tpu(zone))


def region(location: "Location | None", zone: str) -> Finding:
    """Compares a bucket's location, None if unknown, with the zone of the machine that will read it."""
    if location is None:
        return Finding(OK, "can be written to; this account may not see its location (storage.buckets.get)")
    if not zone:
        return Finding(OK, f"can be written to; in {location.name}. The TPU's zone is not known: --zone")
    from pipeline.devices import regions

    if apart := regions.apart(location, zone):
        return Finding(WARNING, apart)
    return Finding(OK, f"can be written to; in {location.name}, like the TPU's zone {zone}")


def wandb_login() -> Iterator[Finding]:
    """Checks for a Weights & Biases login; without one, runs are written offline."""
    offline = "no key: runs are written offline; wandb login, and wandb sync for runs that are there"
    yield Finding(OK, f"a key is in {source}" if (source := wandb.key_source()) else offline)


def one_step() -> Iterator[Finding]:
    """Trains a tiny model on one batch with the real training step; its loss must fall."""
    try:
        wheels.check_wheels()
    except UserError:
        yield Finding(WARNING, "not tried: TensorFlow would abort, as the line on wheels says")
        return
    try:
        cli.import_tensorflow()
        losses, seconds = _train_tiny()
    except Exception as error:
        yield Finding(FAULT, f"a tiny model cannot be trained: {type(error).__name__}: {str(error).splitlines()[0]}")
        return
    course = f"from {losses[0]:.3f} to {losses[-1]:.3f} in {len(losses)} steps, {seconds:.0f} s"
    yield Finding(OK if losses[-1] < losses[0] - 0.1 else FAULT, f"a tiny model's loss went {course}")


def _train_tiny(steps: int = 20) -> tuple[list[float], float]:
    import numpy as np

    import models
    from tools.benchmarks.step import compiled_step

    began = time.monotonic()
    config = models.GPT2Config(layers=1, heads=2, width=32, context=16, vocabulary_size=64)
    tokens = np.random.default_rng(0).integers(0, 64, (4, 17)).astype(np.int32)
    jit_compile = wheels.compiles_for_cpu()
    step, batch = compiled_step(config, tokens, accumulation=2, learning_rate=1e-2, jit_compile=jit_compile)
    return [float(step(batch)["loss"]) for _ in range(steps)], time.monotonic() - began


def define_flags() -> None:
    """Defines the flags."""
    cli.define_path("path", "runs", "Where runs and unfinished work will be written.")
    cli.define_path("bucket", None, "A bucket, or a folder in one, that runs will use.")
    flags.DEFINE_string("zone", None, "The TPU's zone; on Google Cloud the default comes from the metadata server.")


if __name__ == "__main__":
    cli.run(main, define_flags)
