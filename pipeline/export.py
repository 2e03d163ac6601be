"""Write a trained model where other programs read it.

python -m pipeline.export --run_dir=… --format=huggingface|native|saved_model --output=DIRECTORY

huggingface  config.json, model.safetensors and tokenizer.json for GPT2LMHeadModel; an ALGPT2 becomes a plain GPT-2
native       the same files with our names; an ALGPT2 comes back from it as it was
saved_model  a TensorFlow SavedModel: serve(tokens int32 [1, context]) → float32 logits [1, context, vocabulary]
"""

import os

from absl import flags

from pipeline import cli
from pipeline.errors import UserError, nearest

FLAGS = flags.FLAGS
FORMATS = ("huggingface", "native", "saved_model")


def main() -> None:
    if FLAGS.format not in FORMATS:
        near = nearest(str(FLAGS.format), FORMATS)
        raise UserError(f"--format={FLAGS.format}: expected one of {', '.join(FORMATS)}{near}")
    for flag in ("run_dir", "output"):
        if not getattr(FLAGS, flag):
            raise UserError(f"--{flag} is missing; expected a directory")
    if os.path.exists(FLAGS.output) and (not os.path.isdir(FLAGS.output) or os.listdir(FLAGS.output)):
        raise UserError(f"--output={FLAGS.output}: exists and is not an empty directory; expected a new one")
    cli.import_tensorflow()
    from models import pretrained
    from pipeline import trained

    run = trained.load(FLAGS.run_dir)
    note = ""
    try:
        if FLAGS.format == "huggingface":
            note = pretrained.save_huggingface(run.model, FLAGS.output, end_of_text=run.tokenizer.end_of_text)
        elif FLAGS.format == "native":
            pretrained.save_native(run.model, FLAGS.output)
        else:
            _save_model(run.model, FLAGS.output)
    except ValueError as error:
        raise UserError(f"--format={FLAGS.format}: {error}") from None
    with open(os.path.join(FLAGS.output, "tokenizer.json"), "wb") as file:
        file.write(run.tokenizer.data)
    print(f"wrote step {run.step:,} of {FLAGS.run_dir} to {FLAGS.output}. {note}".rstrip())


def _save_model(model, directory: str) -> None:
    import tensorflow as tf

    module = tf.Module()
    module.variables_of_the_model = [variable.value for variable in model.variables]
    spec = tf.TensorSpec([1, model.config.context], tf.int32, name="tokens")
    module.serve = tf.function(lambda tokens: model(tokens), input_signature=[spec])
    tf.saved_model.save(module, directory, signatures={"serving_default": module.serve})


if __name__ == "__main__":
    flags.DEFINE_string("run_dir", None, "The run whose newest checkpoint is written.")
    flags.DEFINE_string("format", "huggingface", "huggingface, native or saved_model.")
    flags.DEFINE_string("output", None, "A new directory.")
    cli.run(main)
