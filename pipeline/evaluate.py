r"""Scores a trained model on a part of a data set, a text or a benchmark file; every figure comes with its protocol.

    python -m pipeline.evaluate --run_dir=… --data=… [--part=validation] \
        [--tpu=v3-8]
    python -m pipeline.evaluate --run_dir=… --text=FILE \
        [--benchmark=wikitext] [--stride=N] [--context=N] [--tpu=v3-8]

Figures and protocols are printed as JSON and kept in the run directory, and its report.html is updated.
"""

import hashlib
import json
import sys
from typing import Any

from absl import flags

from pipeline import cli
from pipeline.devices import tpu_target
from pipeline.errors import UserError
from pipeline.evaluation import benchmarks, comparability, detokenizers

FLAGS = flags.FLAGS
BATCH = 8  # windows per replica at once


def main() -> None:
    """Scores what the flags name, prints the figures and keeps them in the run directory."""
    cli.required("run_dir", "a directory that pipeline.train wrote")
    if bool(FLAGS.data) == bool(FLAGS.text):
        raise UserError("expected one of --data=DIRECTORY and --text=FILE")
    benchmarks.check(FLAGS.benchmark)
    of_examples = FLAGS.benchmark in benchmarks.EXAMPLES
    for flag in ("stride", "context", "detokenizer"):
        if getattr(FLAGS, flag) is not None and (FLAGS.data or of_examples):
            what = "a data set" if FLAGS.data else FLAGS.benchmark
            raise UserError(f"--{flag} goes with a text that is scored whole; {what} is not")
    score: Any = _data if FLAGS.data else _examples if of_examples else _text
    source, file_sha256 = ("", "") if FLAGS.data else benchmarks.read_file(FLAGS.text)
    prepared: Any = None
    if of_examples:
        prepared = benchmarks.examples_of(FLAGS.benchmark, FLAGS.text, source)
    elif source:
        prepared = benchmarks.text_of(FLAGS.benchmark, source, FLAGS.detokenizer)
    target = tpu_target.check(tpu_target.resolve(FLAGS.tpu))
    cli.import_tensorflow(target)
    from pipeline.devices import connect
    from pipeline.runs import trained_model

    connect.multiply_in_float32()
    run = trained_model.load(FLAGS.run_dir, strategy=connect.connect(target).strategy)
    figures, protocol = score(run, prepared)
    if source:
        protocol = {"text": FLAGS.text, "file_sha256": file_sha256} | protocol
    protocol = {"context": run.model.config.context} | protocol
    protocol |= {"tokenizer": run.tokenizer.fingerprint, "dtype": "float32", "step": run.step}
    keep(FLAGS.run_dir, figures, protocol)
    print(json.dumps({"figures": figures, "protocol": protocol}, indent=2, ensure_ascii=False))


def keep(run_dir: str, figures: dict[str, float], protocol: dict[str, Any]) -> None:
    """Writes the figures into the run directory and updates its report; only warns if it cannot write there.

    A run still in training has no report yet: it writes one when it ends.
    """
    import tensorflow as tf

    from pipeline.report.write import write_report
    from pipeline.runs.run_directory import RunDirectory

    directory = RunDirectory(run_dir)
    try:
        directory.write_json(comparability.file_name(protocol), {"figures": figures, "protocol": protocol})
        if directory.exists("summary.json"):
            write_report(directory)
    except (OSError, tf.errors.OpError) as error:
        print(f"warning: not kept in {run_dir} for its report: {error}", file=sys.stderr)


def _data(run: Any, _: Any) -> tuple[dict[str, float], dict[str, Any]]:
    from pipeline.evaluation import scoring

    likelihood, protocol = scoring.score_data(run, FLAGS.data, FLAGS.part, batch=BATCH)
    return likelihood.figures(), protocol


def _text(run: Any, prepared: tuple[str, str, dict[str, Any]]) -> tuple[dict[str, float], dict[str, Any]]:
    from pipeline.evaluation import scoring

    published, text, protocol = prepared
    context = run.model.config.context if FLAGS.context is None else FLAGS.context
    stride = context if FLAGS.stride is None else FLAGS.stride
    likelihood = scoring.score_text(run, text, published=published, context=context, stride=stride, batch=BATCH)
    return likelihood.figures(), protocol | {
        "text_sha256": hashlib.sha256(published.encode()).hexdigest(),
        "context": context,
        "stride": stride,
        "last_window": comparability.FULL,
        "first_token": "scored after an end-of-text token",
        "words": "of the published text: runs of non-white-space, and one a newline",
    }


def _examples(run: Any, examples: list[benchmarks.Example]) -> tuple[dict[str, float], dict[str, Any]]:
    from pipeline.evaluation import answers

    figures = answers.score(run, examples, batch=BATCH)
    return figures, {
        "benchmark": FLAGS.benchmark,
        "prompt": "after an end-of-text token; a space before the answer",
        "normaliser": "a word each" if len(examples[0].choices) == 1 else "the choice's UTF-8 bytes",
    }


def define_flags() -> None:
    """Defines the flags."""
    names = ", ".join([*benchmarks.TEXTS, *benchmarks.EXAMPLES])
    cli.define_path("run_dir", None, "The run; scores its best checkpoint (train.keep_best), else its newest.")
    cli.define_tpu_flag("Where to run: a slice, a Cloud TPU's name or address, local, virtual-N; default: here.")
    cli.define_path("data", None, "A directory of shards with a manifest.")
    flags.DEFINE_string("part", "validation", "Which part of --data.")
    cli.define_path("text", None, "A UTF-8 file: a text, or a benchmark's examples.")
    flags.DEFINE_string("benchmark", "text", f"What --text is: {names}.")
    flags.DEFINE_string("detokenizer", None, f"Replaces the benchmark's: {', '.join(detokenizers.DETOKENIZERS)}.")
    flags.DEFINE_integer("stride", None, "Tokens between windows of --text; default: the context (no overlap).")
    flags.DEFINE_integer("context", None, "Tokens per window of --text; default: the model's context.")


if __name__ == "__main__":
    cli.run(main, define_flags)
