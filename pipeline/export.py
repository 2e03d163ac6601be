"""Exports a trained model in a format that other programs read.

    python -m pipeline.export --run_dir=… --format=FORMAT --output=DIRECTORY

    huggingface         for transformers' GPT2LMHeadModel and AutoTokenizer,
                        and a model card with pipeline.evaluate's figures; an
                        ALGPT2 becomes a plain GPT-2
    huggingface_algpt2  an ALGPT2 in its own size, with the code that
                        transformers needs (trust_remote_code)
    native              config.json and model.safetensors with our names; an
                        ALGPT2 stays an ALGPT2
    saved_model         a TensorFlow SavedModel: ``generate`` and ``score`` take
                        and return text, ``serving_default`` takes tokens and
                        returns logits (pipeline/serving/signatures.py)

The directory appears only when it is complete.
"""

import json
import os
import pathlib
import tempfile
from typing import Any

from absl import flags

from models import tf_checkpoints
from pipeline import cli, storage
from pipeline.errors import UserError, nearest

FLAGS = flags.FLAGS
FORMATS = ("huggingface", "huggingface_algpt2", "native", "saved_model")


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
    from pipeline.runs import trained_model

    run = trained_model.load(FLAGS.run_dir)
    os.makedirs(os.path.dirname(output), exist_ok=True)
    try:
        folder = tempfile.TemporaryDirectory(prefix=".export-", dir=os.path.dirname(output))
    except OSError as error:
        raise UserError(f"--output={FLAGS.output}: cannot be written to ({error.strerror})") from None
    with folder as parent:
        unfinished = pathlib.Path(parent, "unfinished")  # a subdirectory gets the usual permissions
        unfinished.mkdir()
        try:
            note = _write(run, FLAGS.format, unfinished)
        except ValueError as error:
            raise UserError(f"--format={FLAGS.format}: {error}") from None
        (unfinished / "tokenizer.json").write_bytes(run.tokenizer.plain_data)
        os.rename(unfinished, output)  # replaces an empty directory
    print(f"wrote step {run.step:,} of {FLAGS.run_dir} to {FLAGS.output}. {note}".rstrip())


def _write(run: Any, form: str, directory: pathlib.Path) -> str:
    """Writes all but tokenizer.json; returns a sentence on how exact the result is."""
    from models import pretrained
    from pipeline.evaluation import model_card
    from pipeline.serving import signatures

    if form == "native":
        pretrained.save_native(run.model, str(directory))
        return ""
    if form == "saved_model":
        signatures.TextModel(run.model, run.tokenizer).save(str(directory))
        return ""
    own_form, end = form == "huggingface_algpt2", run.tokenizer.end_of_text
    save = pretrained.save_algpt2 if own_form else pretrained.save_huggingface
    note = save(run.model, str(directory), end_of_text=end)
    documents = {
        "tokenizer_config.json": run.tokenizer.transformers_settings(run.model.config.context),
        # As pipeline.generate samples; generation stops where the document ends.
        "generation_config.json": {"do_sample": True, "top_k": 0}
        | dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), end),
    }
    for name, document in documents.items():
        (directory / name).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    (directory / "README.md").write_text(model_card.card(run, own_form=own_form), encoding="utf-8")
    return note


def define_flags() -> None:
    """Defines the flags."""
    cli.define_path("run_dir", None, "The run; exports its best checkpoint (train.keep_best), else its newest.")
    flags.DEFINE_string("format", "huggingface", f"One of {', '.join(FORMATS)}.")
    cli.define_path("output", None, "A new directory.")


if __name__ == "__main__":
    cli.run(main, define_flags)
