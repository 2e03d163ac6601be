"""Benchmarks: ratios against the usual tools, measured in one run on this machine.

python -m tools.bench [--only=shard,read,step,evaluate,accumulation,generate] [--json=FILE] [--page=docs/benchmarks.md]
"""

import importlib
import json
import os
import pathlib
import platform

from absl import flags

from pipeline import cli
from pipeline.devices import wheels
from pipeline.errors import UserError, nearest
from tools.benchmarks import page

FLAGS = flags.FLAGS
# tools/benchmarks/NAME.py, each with run() -> {figure: number}
BENCHMARKS = ("shard", "read", "step", "evaluate", "accumulation", "generate")


def machine() -> str:
    """Returns one line that says what the figures were measured on."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as cpuinfo:
            model = next(line.split(":")[1].strip() for line in cpuinfo if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{model}, {os.cpu_count()} cores, {platform.system()}, CPython {platform.python_version()}"


def main() -> None:
    """Runs the benchmarks, prints them, and writes what was asked for."""
    names = FLAGS.only or BENCHMARKS
    for name in names:
        if name not in BENCHMARKS:
            raise UserError(f"--only={name}: expected one of {', '.join(BENCHMARKS)}{nearest(name, BENCHMARKS)}")
    for flag in ("json", "page"):
        if (file := getattr(FLAGS, flag)) and not os.path.isdir(os.path.dirname(os.path.abspath(file))):
            raise UserError(f"--{flag}={file}: its folder does not exist")
    wheels.check_wheels()
    print(f"machine: {machine()}")
    results: dict[str, dict[str, object]] = {}
    for name in names:
        print(f"\n{name}")
        results[name] = importlib.import_module(f"tools.benchmarks.{name}").run()
    if FLAGS.json:
        with open(FLAGS.json, "w", encoding="utf-8") as file:
            json.dump({"machine": machine(), **results}, file, indent=2)
            file.write("\n")
    if FLAGS.page:
        page.write(pathlib.Path(FLAGS.page), results, machine())


def define_flags() -> None:
    """Defines the flags."""
    flags.DEFINE_list("only", None, "Some of: " + ", ".join(BENCHMARKS))
    cli.define_path("json", None, "Write the figures to this file too.")
    cli.define_path("page", None, "Write them into this Markdown page too; what it says of others stays.")


if __name__ == "__main__":
    cli.run(main, define_flags)
