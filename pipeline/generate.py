r"""Continues prompts with a trained model: one prompt, a file as one batch, or lines on a terminal.

    python -m pipeline.generate --run_dir=… --prompt='…' [--max_tokens=100] \
        [--temperature=0.8] [--top_k=40] [--top_p=1]
    python -m pipeline.generate --run_dir=… --prompts_file=FILE
    python -m pipeline.generate --run_dir=… --interactive

With --interactive, an empty line ends the session.
"""

import sys
from collections.abc import Iterator

from absl import flags

from pipeline import cli, texts, values
from pipeline.devices import wheels
from pipeline.errors import UserError

FLAGS = flags.FLAGS


def main() -> None:
    """Prints each prompt with its continuation."""
    cli.required("run_dir", "a directory that pipeline.train wrote")
    batches = _batches()
    cli.import_tensorflow()
    from models.decoding import Sampling, generate
    from pipeline.runs import trained_model

    try:
        sampling = Sampling(
            temperature=FLAGS.temperature,
            top_k=FLAGS.top_k,
            top_p=FLAGS.top_p,
            repetition_penalty=FLAGS.repetition_penalty,
        )
    except ValueError as error:
        raise UserError(f"--{error}") from None
    run = trained_model.load(FLAGS.run_dir)
    context = run.model.config.context
    for batch in batches:
        prompts = [run.tokenizer.encode(text) for text in batch]
        longest = max(map(len, prompts))
        if longest >= context:
            flag = "prompts_file" if FLAGS.prompts_file else "prompt"
            raise UserError(f"--{flag} has {longest} tokens; expected fewer than the model's context of {context}")
        new = min(FLAGS.max_tokens, context - longest)
        if new < FLAGS.max_tokens:
            print(f"note: the model's context of {context} ends after {new} new tokens", file=sys.stderr)
        continuations = generate(
            run.model,
            prompts,
            max_new_tokens=new,
            end_of_text=run.tokenizer.end_of_text,
            sampling=sampling,
            seed=FLAGS.seed,
            compiled=wheels.compiles_for_cpu(),
        )
        for text, tokens in zip(batch, continuations, strict=True):
            print(text + run.tokenizer.decode(tokens))


def _batches() -> Iterator[list[str]]:
    """Yields the prompts to continue, batch by batch; checks what it can before the model is loaded."""
    if (FLAGS.prompt is not None) + bool(FLAGS.prompts_file) + FLAGS.interactive > 1:
        raise UserError("--prompt, --prompts_file and --interactive exclude each other; expected one of them")
    if FLAGS.interactive:
        return iter(lambda: [_typed()], [""])
    if not FLAGS.prompts_file:
        if not FLAGS.prompt:
            raise UserError("--prompt is empty; expected some text to continue")
        try:
            FLAGS.prompt.encode()
        except UnicodeEncodeError:  # Python passes on undecodable bytes of a command line as lone surrogates
            raise UserError(f"--prompt={FLAGS.prompt!a}: is not UTF-8 text") from None
        return iter([[FLAGS.prompt]])
    prompts = texts.lines(texts.read_file(FLAGS.prompts_file, "--prompts_file")[0].rstrip("\r\n"))
    if "" in prompts:
        number = prompts.index("") + 1
        raise UserError(f"--prompts_file={FLAGS.prompts_file}: line {number} is empty; expected a prompt on every line")
    if not prompts:
        raise UserError(f"--prompts_file={FLAGS.prompts_file}: is empty; expected one prompt per line")
    return iter([prompts])


def _typed() -> str:
    if sys.stdin.isatty():
        print("> ", end="", flush=True)
    try:
        return texts.without_end(texts.decode(sys.stdin.buffer.readline()))
    except UnicodeDecodeError as error:
        raise UserError(f"--interactive: what was typed is not UTF-8 text ({error})") from None


def define_flags() -> None:
    """Defines the flags."""
    cli.define_path("run_dir", None, "The run; uses its best checkpoint (train.keep_best), else its newest.")
    flags.DEFINE_string("prompt", None, "Text to continue.")
    cli.define_path("prompts_file", None, "Texts to continue, one per line, in one batch.")
    flags.DEFINE_bool("interactive", False, "Read prompts from standard input, until an empty line.")
    flags.DEFINE_integer("max_tokens", 100, "Maximum new tokens; fewer if the context ends first.", lower_bound=1)
    flags.DEFINE_float("temperature", 1.0, "Divides the logits; 0 takes the most likely token.", lower_bound=0)
    flags.DEFINE_integer("top_k", 0, "Sample only from the k most likely tokens; 0: no limit.", lower_bound=0)
    flags.DEFINE_float("top_p", 1.0, "Sample only from the most likely tokens that add up to this; 1: no limit.", 0, 1)
    flags.DEFINE_float("repetition_penalty", 1.0, "Makes tokens already in the text less likely; 1: off.")
    flags.DEFINE_integer("seed", 0, "The same seed gives the same text.", -values.INT32, values.INT32)


if __name__ == "__main__":
    cli.run(main, define_flags)
