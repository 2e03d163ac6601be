"""Trains a run that is killed many times: one process imports everything once, and each life is a fork of it.

    python -m tests.helpers.lives KILLS SEED <flags of pipeline.train>

Each life but the last is ended by SIGKILL, at a random moment after a random number of records, or in the middle of
writing a checkpoint: before its files are measured, or before the commit. Prints a line for each.
"""

import gc
import os
import random
import signal
import sys
import threading

from pipeline import cli, train

cli.import_tensorflow()

from pipeline.devices import matmul_peak  # noqa: E402
from pipeline.runs import checkpoint_files, metrics_writer  # noqa: E402
from pipeline.training import session  # noqa: E402


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def die_after(records, delay):
    """Dies ``delay`` seconds after the records of that many more loops."""
    original, left = metrics_writer.MetricsWriter.write, [records]

    def write(self, *loop):
        original(self, *loop)
        left[0] -= 1
        if left[0] == 0:
            threading.Timer(delay, die).start()

    metrics_writer.MetricsWriter.write = write


def die_in_checkpoint(number, point):
    """Dies in the ``number``-th checkpoint of this life, when ``point`` of checkpoint_files.py is reached."""
    original, left = getattr(checkpoint_files, point), [number]

    def reached(path, *rest):
        if "state.data" in path or point == "commit":
            left[0] -= 1
            if left[0] == 0:
                die()
        return original(path, *rest)

    setattr(checkpoint_files, point, reached)


def one_life(death, arguments):
    matmul_peak.measure = lambda *_, **__: 1e9  # takes seconds, and only scales a figure
    assert session.matmul_peak is matmul_peak
    death()
    sys.argv = ["train", *arguments]
    cli.run(train.main, train.define_flags)


def main():
    kills, seed, arguments = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    gc.collect()
    gc.freeze()  # or each fork's collector would walk, and so copy, all that it inherits
    chance = random.Random(seed)
    deaths = []
    for number in range(kills):
        if number % 3 == 1:
            point, which = chance.choice(["measure", "commit"]), chance.randint(1, 3)
            deaths.append((f"in checkpoint {which}, {point}", lambda w=which, p=point: die_in_checkpoint(w, p)))
        else:
            records, delay = chance.randint(1, 4), chance.uniform(0, 0.06)
            deaths.append((f"after record {records}", lambda r=records, d=delay: die_after(r, d)))
    deaths.append(("of old age", lambda: None))
    for name, death in deaths:
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            try:
                one_life(death, arguments)
            finally:
                os._exit(0 if sys.exc_info()[0] in (None, SystemExit) and not _failed() else 1)
        _, status = os.waitpid(child, 0)
        print(f"died {name}: {os.waitstatus_to_exitcode(status)}", flush=True)


def _failed():
    error = sys.exc_info()[1]
    return bool(error.code) if isinstance(error, SystemExit) else error is not None


if __name__ == "__main__":
    main()
