r"""Tokenizes a corpus into committed TFRecord shards.

    python -m pipeline.shard --gin_file=datasets/wikitext-2.gin \
        --source=wikitext-2-raw --output=data/wikitext-2

Repeat the command to resume where it stopped; it says so if nothing is left to do. With --runner the units run on
Apache Beam and produce the same bytes (docs/beam.md).
"""

import importlib.util
import os

from absl import flags

from pipeline import cli
from pipeline.config import gin_reader
from pipeline.data.format.settings import ShardConfig
from pipeline.errors import UserError, nearest

RUNNERS = ("DirectRunner", "DaskRunner", "DataflowRunner", "FlinkRunner", "SparkRunner")
FLAGS = flags.FLAGS


def main() -> None:
    """Runs the command."""
    gin_files = cli.required("gin_file", "a data set such as datasets/cpython.gin")
    cli.required("output", "a directory, local or gs://")
    configuration = gin_reader.load(gin_files, FLAGS.gin_param)
    settings = configuration.get(ShardConfig)
    gin_reader.reject_unused_overrides(configuration, ShardConfig)
    if FLAGS.runner or FLAGS.beam_option or FLAGS.describe_job:
        _on_beam(settings)
        return

    from pipeline.data.sharding.sharder import Sharder  # numpy, only after the flags and gin files are checked

    Sharder(settings, FLAGS.source, FLAGS.output, FLAGS.workers, FLAGS.work_dir).shard()


def _on_beam(settings: ShardConfig) -> None:
    if FLAGS.runner not in RUNNERS:
        hint = nearest(FLAGS.runner or "", RUNNERS)
        raise UserError(f"--runner={FLAGS.runner}: expected one of {', '.join(RUNNERS)}{hint}")
    if not importlib.util.find_spec("apache_beam"):
        raise UserError(
            f"--runner={FLAGS.runner}: Apache Beam is not installed here; `make setup-beam`, and then the same command "
            "with build/beam/bin/python"
        )
    from pipeline.data.sharding.beam.sharder import BeamSharder

    sharder = BeamSharder(
        settings, FLAGS.source, FLAGS.output, FLAGS.workers, FLAGS.work_dir, FLAGS.runner, FLAGS.beam_option
    )
    if FLAGS.describe_job:
        print(sharder.estimate())
        print(sharder.describe(FLAGS.describe_job))
    else:
        sharder.shard()


def define_flags() -> None:
    """Defines the flags."""
    cli.define_gin_flags()
    cli.define_path("source", None, "The corpus: a file, a directory or a glob, local or gs://.")
    cli.define_path("output", None, "The directory of the data set, local or gs://.")
    flags.DEFINE_integer("workers", len(os.sched_getaffinity(0)), "Maximum worker processes; no result depends on it.")
    cli.define_path("work_dir", None, "Folder for unfinished work; default: in the output, for gs:// under /tmp.")
    flags.DEFINE_string("runner", None, f"Shard on Apache Beam: {', '.join(RUNNERS)}.")
    flags.DEFINE_multi_string("beam_option", [], "A Beam option: project=NAME, for example.")
    cli.define_path("describe_job", None, "Write Beam's job graph and its workers' package here, and start nothing.")


if __name__ == "__main__":
    cli.run(main, define_flags)
