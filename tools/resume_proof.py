r"""Proves that a killed and resumed run equals an uninterrupted one, on this topology and on others.

    python -m tools.resume_proof --gin_file=quickstart.gin --data=… \
        [--steps=6] [--more=6] [--tpu=virtual-2]

Trains steps + more without interruption. Trains again, kills that run with SIGKILL during the second part, and resumes
three copies of its directory: on the same topology, with another number of replicas, and with another accumulation.
Compares, step by step, the hash of all token ids consumed and the losses, and the final weights and optimizer slots.
Prints a table, and exits with 1 on a difference. On the same topology everything must be bit-identical; on others, the
tokens bit-identical and the losses within 1e-5 in float32.
"""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass

from absl import flags

from pipeline import cli
from pipeline.errors import UserError, WorkFailedError

FLAGS = flags.FLAGS
LOSS_TOLERANCE = 1e-5  # relative, float32


@dataclass(frozen=True)
class Topology:
    """Where a run resumes: ``--tpu``, and a microbatch to replace the gin file's, or None."""

    name: str
    tpu: str
    microbatch: int | None = None

    def flags(self) -> list[str]:
        """Returns this topology as pipeline.train flags."""
        changed = [] if self.microbatch is None else [f"--gin_param=train.microbatch={self.microbatch}"]
        return [f"--tpu={self.tpu}", *changed]


@dataclass(frozen=True)
class Outcome:
    """The comparison of a resumed run with the uninterrupted one."""

    topology: Topology
    steps: int
    tokens: int  # steps with the same token ids
    loss_difference: float  # the largest, relative
    weight_difference: float  # the largest over weights and slots, absolute
    equal_bits: bool  # all weights and slots are bit-identical

    def holds(self, exact: bool) -> bool:
        """Whether the tokens and, within the tolerance, the losses are equal; if ``exact``, bit-identical."""
        if self.tokens != self.steps or not self.loss_difference <= LOSS_TOLERANCE:
            return False
        return not exact or (self.equal_bits and self.loss_difference == 0)


def prove(run_flags: list[str], steps: int, more: int, home: Topology, others: list[Topology]) -> list[Outcome]:
    """Runs ``run_flags`` uninterrupted at home, then killed there and resumed on each topology; compares the outcomes.

    The killed run leaves a checkpoint after ``steps`` steps, of ``steps + more`` in all.

    Raises:
        WorkFailedError: a run failed unexpectedly.
    """
    settings = {"compute_dtype": "float32", "steps": steps + more, "checkpoint_every": steps, "steps_per_loop": 1}
    settings |= {"evaluate_every": 0, "sample_prompt": "", "wandb": "off"}
    shared = [*run_flags, *(f"--gin_param=train.{name}={value!r}" for name, value in settings.items())]
    with tempfile.TemporaryDirectory(prefix="resume-proof-") as folder:
        unbroken, killed = os.path.join(folder, "unbroken"), os.path.join(folder, "killed")
        _train(unbroken, [*shared, *home.flags()], 0)
        _train(killed, [*shared, *home.flags(), f"--kill_at={steps + max(1, more // 2)}"], -signal.SIGKILL)
        outcomes = []
        for number, topology in enumerate([home, *others]):
            resumed = os.path.join(folder, f"resumed-{number}")
            shutil.copytree(killed, resumed)
            output = _train(resumed, [*shared, *topology.flags()], 0)
            if f"resumes at step {steps:,}" not in output:
                raise WorkFailedError(f"the run did not resume at step {steps}: {output[-500:]}")
            outcomes.append(_compare(unbroken, resumed, topology, steps + more))
        return outcomes


def _train(run_dir: str, arguments: list[str], expected: int) -> str:
    os.makedirs(run_dir, exist_ok=True)
    command = [sys.executable, "-m", "tools.recorded_train", *arguments]
    command += [f"--run_dir={run_dir}/run", f"--rows_file={run_dir}/rows.jsonl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 2:
        raise UserError(done.stderr.strip().removeprefix("error: "))
    if done.returncode != expected:
        raise WorkFailedError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def _compare(unbroken: str, resumed: str, topology: Topology, steps: int) -> Outcome:
    hashes, other_hashes = _token_hashes(unbroken), _token_hashes(resumed)
    same = sum(step in hashes and hashes[step] == other_hashes.get(step) for step in range(steps))
    losses, other_losses = _losses(unbroken), _losses(resumed)
    if set(losses) != set(range(1, steps + 1)) or set(other_losses) != set(losses):
        raise WorkFailedError(f"losses of steps {sorted(losses)} and {sorted(other_losses)}; expected 1 to {steps}")
    difference = max(abs(other_losses[step] - loss) / abs(loss) for step, loss in losses.items())
    weights, equal = _weight_difference(unbroken, resumed, steps)
    return Outcome(topology, steps, same, difference, weights, equal)


def _token_hashes(run_dir: str) -> dict[int, str]:
    """Returns, for each step, the hash of its global batch, as the last process read it."""
    rows: dict[int, tuple[int, list[str]]] = {}
    with open(f"{run_dir}/rows.jsonl", encoding="utf-8") as file:
        for line in file:
            element = json.loads(line)
            process, digests = rows.get(element["step"], (None, []))
            if process != element["process"]:
                digests = []
            rows[element["step"]] = (element["process"], digests + element["rows"])
    return {step: hashlib.sha256("".join(digests).encode()).hexdigest() for step, (_, digests) in rows.items()}


def _losses(run_dir: str) -> dict[int, float]:
    with open(f"{run_dir}/run/metrics.jsonl", encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    return {record["step"]: record["loss"] for record in records}


def _weight_difference(unbroken: str, resumed: str, steps: int) -> tuple[float, bool]:
    import numpy as np
    import tensorflow as tf

    from pipeline.runs import checkpoint_files

    readers = []
    for run_dir in (unbroken, resumed):
        folder = f"{run_dir}/run/checkpoints/{checkpoint_files.folder_name(steps)}"
        checkpoint_files.load(folder)
        readers.append(tf.train.load_checkpoint(f"{folder}/state"))
    names = [name for name in readers[0].get_variable_to_shape_map() if name.startswith("variables/")]
    if not names:
        raise WorkFailedError(f"{unbroken}: the checkpoint holds no variables")
    pairs = [(readers[0].get_tensor(name), readers[1].get_tensor(name)) for name in names]
    largest = max(float(np.max(np.abs(a.astype(np.float64) - b), initial=0)) for a, b in pairs)
    return largest, all(a.tobytes() == b.tobytes() for a, b in pairs)


def report(outcomes: list[Outcome]) -> bool:
    """Prints the table; returns whether everything holds. The first outcome is on the same topology."""
    print(f"{'resumed on':<34} {'token hashes':>14} {'loss, relative':>16} {'weights and slots':>22}")
    good = True
    for number, outcome in enumerate(outcomes):
        weights = "equal to the bit" if outcome.equal_bits else f"differ by {outcome.weight_difference:.1e}"
        tokens = f"{outcome.tokens}/{outcome.steps} equal"
        holds = outcome.holds(exact=number == 0)
        good &= holds
        verdict = "" if holds else "   DIFFERENT"
        print(f"{outcome.topology.name:<34} {tokens:>14} {outcome.loss_difference:>16.1e} {weights:>22}{verdict}")
    return good


def main() -> int:
    """Compares runs on three topologies; returns 1 on a difference."""
    cli.required("data", "a directory of shards with a manifest")
    gin_files = cli.required("gin_file", "a run such as quickstart.gin")
    if FLAGS.steps < 1 or FLAGS.more < 2:
        raise UserError(f"--steps={FLAGS.steps} --more={FLAGS.more}: expected at least 1 and 2")
    from pipeline.config.batch_plan import divisors
    from pipeline.config.run_config import load_run_config, note_overridden_slice

    run = load_run_config(gin_files, FLAGS.gin_param, FLAGS.tpu)  # rejects here what each training would reject
    settings = run.settings
    note_overridden_slice(run.configuration, FLAGS.tpu)
    smaller = (1, *divisors(settings.microbatch))[-2]
    home = Topology(f"the same, {FLAGS.tpu}", FLAGS.tpu)
    others = [
        Topology(f"other replicas, {FLAGS.other_tpu}", FLAGS.other_tpu),
        Topology(f"other accumulation, microbatch {smaller}", FLAGS.tpu, smaller),
    ]
    run_flags = [f"--gin_file={name}" for name in FLAGS.gin_file]
    run_flags += [f"--gin_param={parameter}" for parameter in FLAGS.gin_param] + [f"--data={FLAGS.data}"]
    warmup = min(settings.warmup_steps, FLAGS.steps + FLAGS.more)  # of a much longer run
    run_flags.append(f"--gin_param=train.warmup_steps={warmup}")
    cli.import_tensorflow()
    outcomes = prove(run_flags, FLAGS.steps, FLAGS.more, home, others)
    print(f"{FLAGS.steps} + {FLAGS.more} steps of {settings.global_batch} sequences, killed amid the second part:")
    return 0 if report(outcomes) else 1


def define_flags() -> None:
    """Defines the flags."""
    cli.define_gin_flags()
    cli.define_path("data", None, "Directory of shards with a manifest, local or gs://.")
    flags.DEFINE_integer("steps", 6, "Steps before the checkpoint that the killed run resumes from.")
    flags.DEFINE_integer("more", 6, "Steps after the checkpoint.")
    flags.DEFINE_string("tpu", "virtual-2", "Topology of the uninterrupted run.")
    flags.DEFINE_string("other_tpu", "virtual-1", "Another number of replicas.")


if __name__ == "__main__":
    cli.run(main, define_flags)
