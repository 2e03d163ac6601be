"""Score a trained model on a part of a data set, or on a text file, with the protocol beside every figure.

python -m pipeline.evaluate --run_dir=… (--data=… [--part=validation] | --text=FILE [--stride=N])
"""

import hashlib
import json
import pathlib

from absl import flags

from pipeline import cli
from pipeline.errors import UserError

FLAGS = flags.FLAGS
BATCH = 8


def main() -> None:
    if not FLAGS.run_dir:
        raise UserError("--run_dir is missing; expected a directory that pipeline.train wrote")
    if bool(FLAGS.data) == bool(FLAGS.text):
        raise UserError("expected one of --data=DIRECTORY and --text=FILE")
    if FLAGS.data and FLAGS.stride is not None:
        raise UserError("--stride goes with --text; a data set is scored in windows that do not overlap")
    text = _read(FLAGS.text) if FLAGS.text else ""
    cli.import_tensorflow()
    from pipeline import scoring, trained

    run = trained.load(FLAGS.run_dir)
    if FLAGS.data:
        likelihood, protocol = scoring.score_data(run, FLAGS.data, FLAGS.part, batch=BATCH)
    else:
        stride = run.model.config.context if FLAGS.stride is None else FLAGS.stride
        likelihood = scoring.score_text(run, text, stride=stride, batch=BATCH)
        protocol = {
            "text": FLAGS.text,
            "text_sha256": hashlib.sha256(text.encode()).hexdigest(),
            "stride": stride,
            "first_token": "scored after an end-of-text token",
            "words": "runs of non-white-space, and one a newline",
        }
    protocol |= {
        "context": run.model.config.context,
        "tokenizer": run.tokenizer.fingerprint,
        "dtype": "float32",
        "step": run.step,
    }
    print(json.dumps({"figures": likelihood.figures(), "protocol": protocol}, indent=2, ensure_ascii=False))


def _read(file: str) -> str:
    try:
        text = pathlib.Path(file).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"--text={file}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--text={file}: cannot be read as UTF-8 text ({error})") from None
    if not text.strip():
        raise UserError(f"--text={file}: it holds no text")
    return text


if __name__ == "__main__":
    flags.DEFINE_string("run_dir", None, "The run whose newest checkpoint is scored.")
    flags.DEFINE_string("data", None, "A directory of shards with a manifest.")
    flags.DEFINE_string("part", "validation", "Which part of --data.")
    flags.DEFINE_string("text", None, "A UTF-8 text file.")
    flags.DEFINE_integer("stride", None, "Tokens between windows of --text; default the context (no overlap).")
    cli.run(main)
