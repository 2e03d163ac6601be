"""The gcloud commands for a slice: pure functions from a request to arguments; nothing runs here."""

from tools.pod import offers
from tools.pod.request import Request

Command = list[str]
# A host that is down costs seconds in each of gcloud's ten tries; one that hangs does not block a command forever.
SSH = ("-oConnectTimeout=10", "-oServerAliveInterval=15")
QUEUE = ["gcloud", "compute", "tpus", "queued-resources"]
TPU = ["gcloud", "compute", "tpus", "tpu-vm"]


def _place(request: Request) -> Command:
    return [f"--zone={request.zone}", *([f"--project={request.project}"] if request.project else [])]


def create(request: Request) -> Command:
    """Requests the slice; it starts when there is capacity."""
    options = {
        "service-account": request.service_account,
        "network": request.network,
        "subnetwork": request.subnetwork,
        "labels": ",".join(request.labels),
        "valid-until-duration": request.valid_until_duration,
    }
    return [
        *(*QUEUE, "create", request.name, *_place(request), f"--node-id={request.name}"),
        f"--accelerator-type={offers.accelerator_type(request.piece)}",
        f"--runtime-version={offers.OFFERS[request.piece.generation].image}",
        *(["--spot"] if request.spot else []),
        *(["--reserved"] if request.reserved else []),
        *(f"--{name}={value}" for name, value in options.items() if value),
        "--quiet",
    ]


def describe_request(request: Request) -> Command:
    """Queries the queued resource's state."""
    return [*QUEUE, "describe", request.name, *_place(request), "--format=json"]


def describe_tpu(request: Request) -> Command:
    """Queries the TPU's state, health and host addresses."""
    return [*TPU, "describe", request.name, *_place(request), "--format=json"]


def delete(request: Request) -> Command:
    """Deletes the queued resource and its TPU."""
    return [*QUEUE, "delete", request.name, *_place(request), "--force", "--quiet"]


def ssh(request: Request, host: int, command: str) -> Command:
    """Runs a shell command on one host.

    One command per host, not --worker=all: exit codes stay separate, and no ssh-agent is needed.
    """
    return [
        *TPU,
        "ssh",
        request.name,
        *_place(request),
        f"--worker={host}",
        *_flags("ssh"),
        "--quiet",
        f"--command={command}",
    ]


def upload(request: Request, host: int, file: str, to: str) -> Command:
    """Copies a file to one host, to a path in its user's home."""
    return [*TPU, "scp", file, f"{request.name}:{to}", *_place(request), f"--worker={host}", *_flags("scp"), "--quiet"]


def _flags(program: str) -> Command:
    return [f"--{program}-flag={flag}" for flag in SSH]
