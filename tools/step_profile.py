"""Profiles the benchmark's training step on this machine, from XLA's own trace of what it ran.

    python -m tools.step_profile --output=docs/step_profile.md

Traces some steps of tools/benchmarks/step.py with TensorFlow's profiler. The instructions that run at one moment, on
any threads, share it evenly, so the parts add up to the step's time.
"""

import glob
import tempfile
import time
from collections import Counter, defaultdict

from absl import flags

from pipeline import cli
from pipeline.preflight import hlo as program
from tools.bench import machine

FLAGS = flags.FLAGS
STEPS, TIMED, LARGEST = 4, 6, 15
CONTAINERS = ("while", "conditional", "call")
TABLE = "products with the token table: logits, and the gradients of features and table"
BLOCKS, ATTENTION = "products with the blocks' kernels", "products of attention"
SOFTMAX, UPDATE = "softmax over the vocabulary, and the table's gradient added up", "clipping and AdamW"
SUMS, REST = "sums of gradients over tokens (biases and norms)", "the blocks' elementwise parts, copies and transposes"
NOTHING = "products that run untraced (below), and threads that wait"


def main() -> None:
    """Measures, traces and writes the page."""
    cli.required("output", "a file such as docs/step_profile.md")
    cli.import_tensorflow()
    import tensorflow as tf

    from tools.benchmarks import step as benchmark

    tokens = benchmark.random_tokens()
    step = benchmark.ours(tokens)
    compiled, batch = benchmark.compiled_step(benchmark.CONFIG, tokens)
    text = compiled.experimental_get_compiler_ir(batch)(stage="optimized_hlo")
    best, peak = benchmark.best_seconds_and_peak({"ours": step}, TIMED)
    seconds = best["ours"]
    computations = program.parse(text).computations.values()
    instructions = {name: i for computation in computations for name, i in computation.instructions.items()}
    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        start = time.perf_counter()
        for _ in range(STEPS):
            step()
        traced = time.perf_counter() - start
        tf.profiler.experimental.stop()
        spans = _spans(folder, instructions)
    text = report(instructions, shared_time(spans), seconds, traced / STEPS, peak, benchmark.flops())
    with open(FLAGS.output, "w", encoding="utf-8") as file:
        file.write(text)
    print(f"wrote {FLAGS.output}: {seconds:.3f} s per step, {benchmark.flops() / seconds / peak:.0%} of the peak")


def _spans(folder: str, instructions: dict[str, program.Instruction]) -> list[tuple[int, int, str]]:
    """Returns (begin, end, instruction) of everything that ran, in picoseconds."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    (path,) = glob.glob(f"{folder}/plugins/profile/*/*.xplane.pb")
    space, spans = xplane_pb2.XSpace(), []
    with open(path, "rb") as file:
        space.ParseFromString(file.read())
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                name = plane.event_metadata[event.metadata_id].name
                if name in instructions and instructions[name].opcode not in CONTAINERS:
                    begin = line.timestamp_ns * 1000 + event.offset_ps
                    spans.append((begin, begin + event.duration_ps, name))
    return spans


def shared_time(spans: list[tuple[int, int, str]]) -> dict[str, float]:
    """Returns seconds by name; what runs at one moment shares it evenly."""
    edges = sorted([(begin, 1, name) for begin, _, name in spans] + [(end, -1, name) for _, end, name in spans])
    running: Counter[str] = Counter()
    shares: dict[str, float] = defaultdict(float)
    before = 0
    for moment, change, name in edges:
        count = running.total()
        for other, times in running.items():
            shares[other] += (moment - before) * times / count / 1e12
        running[name] += change
        if not running[name]:
            del running[name]
        before = moment
    return shares


def part_of(instruction: program.Instruction, rows: int) -> str:
    """Returns which part of the step an instruction belongs to; ``rows`` is the padded vocabulary."""
    sizes = [array.dimensions for array in instruction.arrays]
    if instruction.opcode == "dot":
        if len(sizes[0]) > 2:
            return ATTENTION
        return TABLE if "while/" in instruction.op_name else BLOCKS
    if "/cond" in instruction.op_name or instruction.op_name.endswith("cond") or "Square" in instruction.op_name:
        return UPDATE
    if "while/" in instruction.op_name or any(rows in size for size in sizes):
        return SOFTMAX
    return SUMS if "reduce-window" in instruction.name else REST


def report(
    instructions: dict[str, program.Instruction],
    shares: dict[str, float],
    seconds: float,
    traced: float,
    peak: float,
    flops: float,
) -> str:
    """Returns the profile as Markdown."""
    from tools.benchmarks.step import CONFIG

    milliseconds = {name: 1000 * value / STEPS for name, value in shares.items()}
    parts: dict[str, float] = defaultdict(float, {NOTHING: 1000 * traced - sum(milliseconds.values())})
    for name, value in milliseconds.items():
        parts[part_of(instructions[name], CONFIG.padded_vocabulary)] += value
    rows = [
        f"| {part} | {value:.0f} | {value / traced / 10:.1f} % |"
        for part, value in sorted(parts.items(), key=lambda row: -row[1])
    ]
    largest = sorted(milliseconds, key=milliseconds.__getitem__, reverse=True)[:LARGEST]
    detail = [
        f"| `{name}` | `{instructions[name].shape.split('{')[0]}` | {instructions[name].op_name[-60:]} "
        f"| {milliseconds[name]:.1f} |"
        for name in largest
    ]
    lines = "\n".join
    return f"""# Where the time of a training step goes

Written by `python -m tools.step_profile --output=docs/step_profile.md`: the step of
`python -m tools.bench --only=step`, a 30M GPT-2 on 8 sequences of 256 tokens in float32 with AdamW.

* machine: {machine()}
* step: {seconds:.3f} s at best ({traced:.3f} s while traced), {flops / seconds / 1e9:.0f} GF/s
* matrix multiply: {peak / 1e9:.0f} GF/s at best, so the step has {flops / seconds / peak:.0%} of
  the peak; at the peak, the model's FLOPs take {1000 * flops / peak:.0f} ms

| part | ms per step | share |
|---|---|---|
{lines(rows)}

Other programs on the machine lengthen all of this; the share of the peak
comes from the best of several turns.

If a product contracts both operands' first axes (the gradient of a kernel or of the table), XLA passes it to
its threads and returns: the trace has only the launch. Its time is in the part that names it, or in what
runs meanwhile, so a product beside it looks slower than it is alone.

The {LARGEST} instructions that take longest:

| instruction | result | TensorFlow op | ms per step |
|---|---|---|---|
{lines(detail)}
"""


def define_flags() -> None:
    """Defines the flags."""
    cli.define_path("output", None, "The Markdown file to write.")


if __name__ == "__main__":
    cli.run(main, define_flags)
