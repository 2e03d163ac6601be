"""Tokenizes a corpus into committed TFRecord shards.

    python -m pipeline.shard --gin_file=datasets/wikitext-2.gin --source=wikitext-2-raw --output=data/wikitext-2

Repeating the command goes on from where it was stopped, and says so when there is nothing left to do.
"""

import os

from absl import flags

from pipeline import cli, config
from pipeline.data.settings import ShardConfig
from pipeline.errors import UserError

FLAGS = flags.FLAGS
cli.define_gin_flags()
flags.DEFINE_string("source", None, "The corpus: a file, a directory or a glob, local or gs://.")
flags.DEFINE_string("output", None, "The directory of the data set, local or gs://.")
flags.DEFINE_integer("workers", len(os.sched_getaffinity(0)), "Worker processes; no result depends on it.")
flags.DEFINE_string("work_dir", None, "Folder for unfinished work; default: in the output, for gs:// under /tmp.")


def main() -> None:
    """Shards as the flags say."""
    gin_files = cli.required_gin_files("a data set such as datasets/cpython.gin")
    if not FLAGS.output:
        raise UserError("--output is missing: name a directory, local or gs://")
    config.load(gin_files, FLAGS.gin_param)
    settings = config.get(ShardConfig)
    config.refuse_idle(settings)

    from pipeline.data.sharder import shard  # numpy, only after the flags and gin files are known to be right

    shard(settings, FLAGS.source, FLAGS.output, FLAGS.workers, FLAGS.work_dir)


if __name__ == "__main__":
    cli.run(main)
