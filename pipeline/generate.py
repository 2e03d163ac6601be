"""Continue a prompt with a trained model.

python -m pipeline.generate --run_dir=… --prompt='…' [--max_tokens=100] [--temperature=0.8] [--top_k=40] [--top_p=1]
"""

from absl import flags

from pipeline import cli
from pipeline.errors import UserError

FLAGS = flags.FLAGS


def main() -> None:
    if not FLAGS.run_dir:
        raise UserError("--run_dir is missing; expected a directory that pipeline.train wrote")
    if not FLAGS.prompt:
        raise UserError("--prompt is empty; expected some text to continue")
    cli.import_tensorflow()
    from models.decoding import Sampling, generate
    from pipeline import trained

    try:
        sampling = Sampling(temperature=FLAGS.temperature, top_k=FLAGS.top_k, top_p=FLAGS.top_p)
    except ValueError as error:
        raise UserError(f"--{error}") from None
    run = trained.load(FLAGS.run_dir)
    prompt = run.tokenizer.encode(FLAGS.prompt)
    context = run.model.config.context
    if len(prompt) >= context:
        raise UserError(f"--prompt has {len(prompt)} tokens; expected fewer than the model's context of {context}")
    (made,) = generate(
        run.model,
        [prompt],
        max_new_tokens=min(FLAGS.max_tokens, context - len(prompt)),
        end_of_text=run.tokenizer.end_of_text,
        sampling=sampling,
        seed=FLAGS.seed,
    )
    print(FLAGS.prompt + run.tokenizer.decode(made))


if __name__ == "__main__":
    flags.DEFINE_string("run_dir", None, "The run whose newest checkpoint is used.")
    flags.DEFINE_string("prompt", None, "Text to continue.")
    flags.DEFINE_integer("max_tokens", 100, "New tokens at most; fewer where the context ends.", lower_bound=1)
    flags.DEFINE_float("temperature", 1.0, "Divides the logits; 0 takes the likeliest token.")
    flags.DEFINE_integer("top_k", 0, "Only the k likeliest tokens; 0 is no limit.")
    flags.DEFINE_float("top_p", 1.0, "Only the likeliest tokens that add up to this probability; 1 is no limit.")
    flags.DEFINE_integer("seed", 0, "The same seed gives the same text.")
    cli.run(main)
