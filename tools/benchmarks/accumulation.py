"""Accumulation: a step of 8 microbatches of 4 sequences against one of 1 microbatch of 32, the same global batch.

Uses step.py's 30M model and optimizer, sequences of 256 tokens, float32 and this machine's devices. The two take turns,
and each one's best turn counts: other work on the machine can only slow a turn down.
"""

from tools.benchmarks.step import best_seconds, ours, random_tokens

GLOBAL_BATCH, TURNS = 32, 4


def run() -> dict[str, float]:
    """Measures, prints a table and returns seconds and the ratio of times."""
    tokens = random_tokens(GLOBAL_BATCH)
    seconds = best_seconds({str(count): ours(tokens, accumulation=count) for count in (1, 8)}, TURNS)
    for count, value in seconds.items():
        print(f"  accumulation {count}   {value:7.3f} s per step, {value / seconds['1']:5.3f} of accumulation 1")
    ratio = seconds["8"] / seconds["1"]
    return {f"seconds_at_{count}": value for count, value in seconds.items()} | {"time_at_8_over_1": ratio}
