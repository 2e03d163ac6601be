r"""Manages a TPU slice on Google Cloud: creates it, sets it up, trains on it, watches it and deletes it.

    python -m tools.pod create|setup|run|status|logs|stop|restart|delete \
        --name=NAME --tpu=SLICE --zone=ZONE
    python -m tools.pod run --name=NAME --tpu=SLICE --zone=ZONE -- \
        --gin_file=… --data=gs://… --run_dir=gs://…

It runs gcloud, as its user would; --print prints those commands instead. docs/pods.md explains every step.
"""

import shlex
from collections.abc import Callable, Sequence

from absl import flags

from pipeline import cli
from pipeline.errors import UserError, nearest
from tools.pod import create, keep, logs, run, setup, status
from tools.pod import request as requests
from tools.pod.commands import Command, delete
from tools.pod.request import Request

FLAGS = flags.FLAGS
Verb = tuple[Callable[[Request], list[Command]], Callable[[Request], int | None]]  # its commands, and its work


def main(verb: str = "", *arguments: str) -> int:
    """Runs the subcommand, or prints its commands; returns the exit code."""
    verbs = _verbs(arguments)
    if verb not in verbs:
        raise UserError(f"{verb!r} is not one of {', '.join(verbs)}{nearest(verb, verbs)}")
    if arguments and verb != "run":
        raise UserError(f"{verb} takes no arguments, but {arguments[0]!r} is given; flags are written --name=value")
    plan, work = verbs[verb]
    request = _request()
    if verb == "run" and not FLAGS.print:
        run.check(request, arguments)
    if FLAGS.print:
        print(*map(shlex.join, plan(request)), sep="\n")
        return 0
    return work(request) or 0


def _verbs(arguments: Sequence[str]) -> dict[str, Verb]:
    return {
        "create": (create.plan, lambda request: create.create(request, FLAGS.poll_seconds)),
        "status": (status.plan, status.status),
        "setup": (
            lambda request: setup.plan(request, FLAGS.bucket),
            lambda request: setup.setup(request, FLAGS.bucket),
        ),
        "run": (lambda request: run.plan(request, arguments), lambda request: _run(request, arguments)),
        "logs": (
            lambda request: logs.plan(request, FLAGS.host, FLAGS.lines, follow=FLAGS.follow),
            lambda request: logs.logs(request, FLAGS.host, FLAGS.lines, follow=FLAGS.follow),
        ),
        "stop": (run.stop_plan, run.stop),
        "restart": (run.restart_plan, run.restart),
        "delete": (lambda request: [delete(request)], lambda request: create.delete(request, yes=FLAGS.yes)),
    }


def _run(request: Request, arguments: Sequence[str]) -> int:
    if FLAGS.keep:
        return keep.keep(request, arguments, FLAGS.bucket, FLAGS.poll_seconds)
    run.run(request, arguments)
    return 0


def _request() -> Request:
    piece = requests.find_slice(cli.required("tpu", "a slice such as v3-8 or pod-128"))
    zone = cli.required("zone", "a zone such as europe-west4-a; docs/pods.md lists them")
    requests.check_place(piece, zone, unlisted=FLAGS.unlisted_zone)
    return Request(
        name=cli.required("name", "the name of the slice, existing or to be"),
        piece=piece,
        zone=zone,
        project=FLAGS.project,
        spot=FLAGS.spot,
        reserved=FLAGS.reserved,
        service_account=FLAGS.service_account,
        network=FLAGS.network,
        subnetwork=FLAGS.subnetwork,
        labels=tuple(FLAGS.labels),
        valid_until_duration=FLAGS.valid_until_duration,
    )


def define_flags() -> None:
    """Defines the flags."""
    flags.DEFINE_string("name", None, "The name of the slice's queued resource and TPU.")
    cli.define_tpu_flag("A slice, such as v3-8, pod-128 (a v3-128) or v5e-16.")
    flags.DEFINE_string("zone", None, "Its zone, such as europe-west4-a.")
    flags.DEFINE_bool("unlisted_zone", False, "Accept the zone even if no Google page lists it for this slice.")
    flags.DEFINE_string("project", None, "Its project; default: the one in gcloud's configuration.")
    flags.DEFINE_bool("print", False, "Print the commands, one per line, and run none.")
    flags.DEFINE_bool("spot", False, "create: a slice that may be preempted at any time.")
    flags.DEFINE_bool("reserved", False, "create: from the project's reservation.")
    flags.DEFINE_string("service_account", None, "create: the e-mail address that the hosts run as.")
    flags.DEFINE_string("network", None, "create: the VPC network.")
    flags.DEFINE_string("subnetwork", None, "create: the subnetwork.")
    flags.DEFINE_list("labels", [], "create: KEY=VALUE,KEY=VALUE, for the bill.")
    flags.DEFINE_string("valid_until_duration", None, "create: how long the request may wait, such as 6h.")
    flags.DEFINE_float("poll_seconds", 15, "create, run --keep: seconds between polls.", lower_bound=0)
    cli.define_path("bucket", None, "setup: check that the hosts can write to this bucket, or folder in one.")
    flags.DEFINE_bool("keep", False, "run: stay, and recreate a preempted slice with its run.")
    flags.DEFINE_bool("follow", False, "logs: keep printing new lines.")
    flags.DEFINE_string("host", "0", "logs: a host's index, or all.")
    flags.DEFINE_integer("lines", 50, "logs: the newest lines of each host.", lower_bound=1)
    flags.DEFINE_bool("yes", False, "delete: do not ask.")


if __name__ == "__main__":
    cli.FLAGS.set_gnu_getopt(True)  # the subcommand comes before the flags
    cli.run(main, define_flags)
