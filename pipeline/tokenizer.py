r"""Trains a byte-level BPE vocabulary on a corpus and writes it as a tokenizer.json.

    python -m pipeline.tokenizer --gin_file=datasets/cpython.gin --size=8192 \
        --output=data/tokenizers/cpython-8192.json

The same corpus and size give the same bytes.
"""

import itertools
import os

from absl import flags

from pipeline import cli, values
from pipeline.config import gin_reader
from pipeline.data.format.settings import ShardConfig

FLAGS = flags.FLAGS


def main() -> None:
    """Trains as the flags say; an identical existing file is success."""
    cli.required("output", "the tokenizer.json to write")
    configuration = gin_reader.load(FLAGS.gin_file or ["datasets/cpython.gin"], FLAGS.gin_param)
    settings = configuration.get(ShardConfig)
    gin_reader.reject_unused_overrides(configuration, ShardConfig)

    from pipeline import storage
    from pipeline.data.corpora import open_corpus
    from pipeline.data.corpora.base import train_texts
    from pipeline.data.format import tokenizer

    remote = storage.is_remote(FLAGS.output)
    folder = FLAGS.output.rpartition("/")[0] if remote else os.path.dirname(os.path.abspath(FLAGS.output))
    storage.check_writable(folder)
    texts = itertools.islice(train_texts(open_corpus(settings, FLAGS.source)), FLAGS.documents)
    name = os.path.basename(FLAGS.output).removesuffix(".json")
    trained = tokenizer.train(texts, FLAGS.size, name)
    if not remote:
        os.makedirs(folder, exist_ok=True)
    storage.publish_bytes(trained.data, FLAGS.output)
    print(f"wrote {FLAGS.output}: {trained.vocabulary_size:,} entries, end of text is {trained.end_of_text}")


def define_flags() -> None:
    """Defines the flags."""
    cli.define_gin_flags()
    cli.define_path("source", None, "The corpus: a file, a directory or a glob, local or gs://.")
    cli.define_path("output", None, "The tokenizer.json to write.")
    flags.DEFINE_integer("size", 8192, "Vocabulary size, including end-of-text.")
    flags.DEFINE_integer(
        "documents", 200_000, "Maximum documents to train on, from the beginning of the corpus.", 1, values.INT64
    )


if __name__ == "__main__":
    cli.run(main, define_flags)
