r"""Trains a language model from shards, or prints what the run would do.

    python -m pipeline.train --gin_file=algpt2.gin --tpu=v3-8 \
        --data=gs://… --run_dir=gs://… [--dry_run]

Repeat the command to resume from the newest checkpoint. Exit code 0: done, or stopped by a signal and saved; 1: the
work failed; 2: wrong input, nothing written; 75: a worker went away, or this VM is about to: start it again.
"""

import sys

from absl import flags

from pipeline import cli, storage
from pipeline.config import attention_path, dry_run, run_config
from pipeline.config.train_config import schedule_note
from pipeline.data.format.manifest import Manifest
from pipeline.devices import tpu_target
from pipeline.preflight.compile_step import require_fit

FLAGS = flags.FLAGS


def main() -> int:
    """Prints the flags' run, or checks and starts it; returns the exit code."""
    files = cli.required("gin_file", "a run such as algpt2.gin, gpt2.gin or quickstart.gin")
    run = run_config.load_run_config(files, FLAGS.gin_param, FLAGS.tpu)
    run_config.note_overridden_slice(run.configuration, FLAGS.tpu)
    run_config.note_other_models_size(run.configuration, run.settings, run.model)
    if note := schedule_note(run.settings):
        print(f"note: {note}", file=sys.stderr)
    # Report errors that need no connection first.
    attention = attention_path.choose(run.settings, run.model, run.target.slice, elsewhere=FLAGS.dry_run)
    data = _checked_data(run) if FLAGS.data and not storage.is_remote(FLAGS.data) else None
    if FLAGS.dry_run:
        sized = run_config.with_data(run, data) if data else run
        print(run.provenance())
        print(dry_run.arithmetic(sized.settings, sized.model, run.optimizer, run.plan, run.target.hosts, attention))
        if FLAGS.preflight:
            require_fit(sized.settings, sized.model, run.optimizer, run.target.slice)
        return 0
    target = tpu_target.check(run.target, together=True)
    for flag in ("data", "run_dir"):
        address = cli.required(flag, "a directory or a gs:// address (or --dry_run)")
        run_config.check_visible(run.target, **{flag: address})
    return _train(run, target, data)


def _checked_data(run: run_config.RunConfig) -> Manifest:
    data = run_config.check_data(FLAGS.data, run)
    data.check_files(FLAGS.data, "train", "validation")
    return data


def _train(run: run_config.RunConfig, target: tpu_target.Target, data: Manifest | None) -> int:
    storage.check_writable(FLAGS.run_dir)
    data = data or _checked_data(run)
    run_config.note_distance(run.target, FLAGS.data)
    run = run_config.with_data(run, data)
    if FLAGS.preflight:
        require_fit(run.settings, run.model, run.optimizer, run.target.slice)
    cli.import_tensorflow(target)
    from pipeline.devices import connect

    connection = connect.connect(target)
    from pipeline.runs.run_directory import RunDirectory
    from pipeline.training.session import Session  # its imports must not start TensorFlow before the connection

    return Session(
        configuration=run.provenance(),
        settings=run.settings,
        model_config=run.model,
        optimizer_config=run.optimizer,
        plan=run.plan,
        manifest=data,
        data=FLAGS.data,
        connection=connection,
        directory=RunDirectory(FLAGS.run_dir),
    ).run()


def define_flags() -> None:
    """Defines the flags, here and for programs that run ``main``."""
    cli.define_gin_flags()
    cli.define_tpu_flag(
        "A slice (v3-8, or pod-128 for a v3-128), a slice with an address or a Cloud TPU's name "
        "(v3-8@grpc://10.0.0.2:8470, v3-8@my-tpu), local on a TPU VM, or virtual-N; default: the slice that gin binds, "
        "else this machine's GPUs or CPU."
    )
    cli.define_path("data", None, "Directory of shards with a manifest, local or gs://.")
    cli.define_path("run_dir", None, "Where the run keeps its results, local or gs://.")
    flags.DEFINE_bool("preflight", False, "First compile the step with the TPU compiler to see whether it fits.")
    flags.DEFINE_bool("dry_run", False, "Print the configuration and batch arithmetic, check local --data, exit.")


if __name__ == "__main__":
    cli.run(main, define_flags)
