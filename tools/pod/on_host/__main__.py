"""On a host of a slice: started by tools.pod over ssh, from ~/pod/checkout; prints its answer as JSON after "pod: ".

python -m tools.pod.on_host state|check|worker|await|train|stop|start …
"""

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from pipeline import cli
from pipeline.devices.heartbeat import responds
from pipeline.errors import UserError, WorkFailedError, nearest
from tools.pod.on_host import checks, units

FLAGS = flags.FLAGS
SERVER_SECONDS = 180  # for the server to respond; importing TensorFlow takes most of them


def main(verb: str = "", *arguments: str) -> None:
    """Runs the subcommand."""
    verbs: dict[str, Callable[[Sequence[str]], None]] = {
        "state": lambda _: say(state()),
        "check": lambda _: check(),
        "worker": lambda _: worker(),
        "await": lambda _: await_servers(),
        "train": train,
        "stop": lambda _: stop(),
        "start": lambda _: start(),
    }
    if verb not in verbs:
        raise UserError(f"{verb!r} is not one of {', '.join(verbs)}{nearest(verb, verbs)}")
    verbs[verb](arguments)


def say(answer: dict[str, Any]) -> None:
    """Prints an answer for tools.pod."""
    print(units.ANSWER + json.dumps(answer), flush=True)


def state() -> dict[str, Any]:
    """Returns what this host does."""
    stamp, command = units.HOME / "stamp", units.HOME / "command.json"
    return {
        "stamp": stamp.read_text(encoding="utf-8").strip() if stamp.exists() else "",
        "server": units.is_active(units.WORKER),
        "run": units.is_active(units.TRAIN),
        "restarts": units.show(units.TRAIN).get("NRestarts", "0"),
        "exit_status": units.EXIT_STATUS.read_text(encoding="utf-8").strip() if units.EXIT_STATUS.exists() else "",
        "command": json.loads(command.read_text(encoding="utf-8")) if command.exists() else [],
        "line": units.newest_line(units.TRAIN),
    }


def check() -> None:
    """Reports the clock and the versions; WorkFailedError if something is wrong."""
    say({"clock": time.time()})
    found = list(checks.faults(FLAGS.bucket))
    say({"versions": checks.versions(), "faults": found})
    if found:
        raise WorkFailedError("; ".join(found))


def worker() -> None:
    """Starts this host's TensorFlow server, unless the same one runs, and waits until it responds."""
    if FLAGS.fresh and units.is_active(units.WORKER):
        units.systemctl("kill", "--signal=SIGKILL", units.WORKER)  # a hung server ignores SIGTERM
        units.systemctl("stop", units.WORKER)
    addresses = cli.required("hosts", "HOST:PORT of each host").split(",")
    command = [str(units.PYTHON), "-m", "tools.pod.on_host.tpu_worker", f"--tpu={FLAGS.tpu}", f"--index={FLAGS.index}"]
    changed = units.install(units.WORKER, units.worker([*command, f"--hosts={FLAGS.hosts}"]))
    if changed or not units.is_active(units.WORKER):
        units.systemctl("enable", units.WORKER)
        units.systemctl("restart", units.WORKER)
    deadline = time.monotonic() + SERVER_SECONDS
    while not responds(addresses[FLAGS.index], 1.0):
        if time.monotonic() > deadline or not units.is_active(units.WORKER):
            raise WorkFailedError(f"the TensorFlow server does not answer: {units.newest_line(units.WORKER)}")
        time.sleep(0.2)
    say({"server": True})


def await_servers() -> None:
    """Waits until all hosts' servers respond; WorkFailedError after a long while."""
    deadline = time.monotonic() + FLAGS.seconds
    for address in cli.required("hosts", "HOST:PORT of each host").split(","):
        while not responds(address, 1.0):  # a hung server still accepts connections
            if time.monotonic() > deadline:
                raise WorkFailedError(f"the server at {address} has not answered for {FLAGS.seconds:g} s")
            time.sleep(0.2)


def train(arguments: Sequence[str]) -> None:
    """Starts the training; UserError if one is active."""
    if units.is_active(units.TRAIN):
        raise UserError("a run is active on this slice; expected to `stop` it first, or to watch it with logs --follow")
    command = ["pipeline.train", f"--tpu={FLAGS.tpu}", *arguments]
    at = FLAGS.tpu.partition("@")[2]
    hosts = "" if at == "local" else at.removeprefix("grpc://")
    units.install(units.TRAIN, units.train([str(units.PYTHON), "-m", *command], hosts))
    (units.HOME / "command.json").write_text(json.dumps(list(arguments)), encoding="utf-8")
    units.EXIT_STATUS.unlink(missing_ok=True)
    units.systemctl("start", units.TRAIN)
    say({"run": True})


def stop() -> None:
    """Stops the run, which saves within --grace seconds; if it cannot, as on a hang, kills it."""
    units.systemctl("stop", "--no-block", units.TRAIN)
    deadline = time.monotonic() + FLAGS.grace
    while units.show(units.TRAIN).get("ActiveState") not in ("inactive", "failed", None):
        if time.monotonic() > deadline:
            units.systemctl("kill", "--signal=SIGKILL", units.TRAIN)
            deadline += FLAGS.grace
        time.sleep(0.2)
    say({"run": False})


def start() -> None:
    """Restarts this host's last run; UserError if there was none."""
    if not (units.HOME / "units" / units.TRAIN).exists():
        raise UserError("no run was started on this slice yet; expected run -- --gin_file=… first")
    units.EXIT_STATUS.unlink(missing_ok=True)
    units.systemctl("start", units.TRAIN)
    say({"run": True})


def define_flags() -> None:
    """Defines the flags."""
    flags.DEFINE_string("tpu", None, "The slice; for train with its address.")
    flags.DEFINE_integer("index", 0, "This host's index.")
    flags.DEFINE_string("hosts", None, "HOST:PORT of each host's server, comma-separated.")
    flags.DEFINE_bool("fresh", False, "Restart the server, even if the same one runs.")
    flags.DEFINE_float("seconds", 900, "How long to wait for the servers.")
    flags.DEFINE_float("grace", units.SAVING_SECONDS, "Seconds for a run to save before it is killed.")
    cli.define_path("bucket", None, "A bucket, or a folder in one, that must be writable.")


if __name__ == "__main__":
    cli.FLAGS.set_gnu_getopt(True)  # the subcommand comes before the flags
    cli.run(main, define_flags)
