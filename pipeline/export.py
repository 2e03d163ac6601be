"""Write a trained model where other programs read it.

python -m pipeline.export --run_dir=… --format=huggingface|native|saved_model --output=DIRECTORY

huggingface  config.json, model.safetensors, tokenizer.json and tokenizer_config.json for transformers'
             GPT2LMHeadModel and AutoTokenizer; an ALGPT2 becomes a plain GPT-2
native       the same files with our names; an ALGPT2 is kept as it is
saved_model  a TensorFlow SavedModel: ``generate`` and ``score`` take and give text, ``serving_default`` takes tokens
             and gives logits (pipeline/serving/signatures.py)

The directory appears only when it is complete.
"""

import json
import os
import pathlib
import tempfile

from absl import flags

from models import tf_checkpoints
from pipeline import cli, storage
from pipeline.errors import UserError, nearest

FLAGS = flags.FLAGS
FORMATS = ("huggingface", "native", "saved_model")


def main() -> None:
    """Writes the model into a new directory."""
    if FLAGS.format not in FORMATS:
        near = nearest(str(FLAGS.format), FORMATS)
        raise UserError(f"--format={FLAGS.format}: expected one of {', '.join(FORMATS)}{near}")
    for flag in ("run_dir", "output"):
        cli.required(flag, "a directory")
    if "://" in FLAGS.output:
        raise UserError(f"--output={FLAGS.output}: is not on this machine; expected a local directory")
    if os.path.exists(FLAGS.output) and (not os.path.isdir(FLAGS.output) or os.listdir(FLAGS.output)):
        raise UserError(f"--output={FLAGS.output}: exists and is not an empty directory; expected a new one")
    output = os.path.abspath(FLAGS.output)
    if FLAGS.format == "saved_model" and tf_checkpoints.PATTERN.search(output):
        raise UserError(
            f"--output={FLAGS.output}: TensorFlow cannot load a SavedModel from it; expected no [ and no \\"
        )
    storage.check_writable(os.path.dirname(output))
    cli.import_tensorflow()
    from models import pretrained
    from pipeline.runs import trained_model
    from pipeline.serving import signatures

    run = trained_model.load(FLAGS.run_dir)
    os.makedirs(os.path.dirname(output), exist_ok=True)
    try:
        folder = tempfile.TemporaryDirectory(prefix=".export-", dir=os.path.dirname(output))
    except OSError as error:
        raise UserError(f"--output={FLAGS.output}: cannot be written to ({error.strerror})") from None
    with folder as parent:
        unfinished = pathlib.Path(parent, "unfinished")  # a subdirectory has the usual permissions
        unfinished.mkdir()
        note = ""
        try:
            if FLAGS.format == "huggingface":
                note = pretrained.save_huggingface(run.model, str(unfinished), end_of_text=run.tokenizer.end_of_text)
                settings = json.dumps(run.tokenizer.transformers_settings(run.model.config.context), indent=2)
                (unfinished / "tokenizer_config.json").write_text(settings, encoding="utf-8")
            elif FLAGS.format == "native":
                pretrained.save_native(run.model, str(unfinished))
            else:
                signatures.TextModel(run.model, run.tokenizer).save(str(unfinished))
        except ValueError as error:
            raise UserError(f"--format={FLAGS.format}: {error}") from None
        (unfinished / "tokenizer.json").write_bytes(run.tokenizer.plain_data)
        os.rename(unfinished, output)  # replaces an empty directory
    print(f"wrote step {run.step:,} of {FLAGS.run_dir} to {FLAGS.output}. {note}".rstrip())


def define_flags() -> None:
    """Defines the flags."""
    cli.define_path("run_dir", None, "The run whose newest checkpoint is written.")
    flags.DEFINE_string("format", "huggingface", "huggingface, native or saved_model.")
    cli.define_path("output", None, "A new directory.")


if __name__ == "__main__":
    cli.run(main, define_flags)
