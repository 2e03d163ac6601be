"""Resolves ``--tpu`` before TensorFlow is imported, so that a mistake costs a second, not a minute.

Imports neither TensorFlow nor Keras. Every failure is one UserError sentence; nothing here waits longer than
PROBE_SECONDS for an answer, while TensorFlow's own resolver asks a missing metadata server for minutes.
"""

import dataclasses
import glob
import os
import re
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from pipeline.devices import heartbeat, metadata, slices, tf_config, wheels
from pipeline.errors import UserError, pip_install

PROBE_SECONDS = 1.0
GRPC_PORT = 8470
API_CLIENT = ("google-api-python-client", "oauth2client")
VIRTUAL = re.compile(r"virtual-(?P<replicas>\d+)")
GPU_DEVICE = re.compile(r"/dev/nvidia\d+")
TPU_DEVICE_FILES = ("/dev/accel*", "/dev/vfio/[0-9]*")
Place = str | slices.Slice | None  # the value of ``--tpu``, a slice that gin binds, or None: this machine


@dataclass(frozen=True, kw_only=True)
class Target:
    """The devices that a run asks for.

    Args:
        kind: "here" (this machine's GPUs or CPU), "virtual" (virtual CPU devices) or "tpu".
        asked: The user's request, for messages.
        replicas: Over all hosts; 0 = known only once connected.
        hosts: Machines; each reads its own part of the data.
        address: For "tpu": TPUClusterResolver's argument ("local", a grpc:// address or a Cloud TPU's name); if empty,
            ``check`` finds it.
        slice: The requested slice, if any, or this TPU VM's.
    """

    kind: str
    asked: str = dataclasses.field(default="", compare=False)
    replicas: int = 0
    hosts: int = 1
    address: str = ""
    slice: slices.Slice | None = None

    def check_size(self) -> None:
        """Raises UserError if the number of replicas is unknown before connecting."""
        if self.replicas:
            return
        machine_type = slices.accelerator_type() if self.address == "local" else ""
        if self.address != "local" and "://" not in self.address:
            slices.find(self.address)  # its error names the nearest slice
        unknown = f"this machine is a {machine_type!r}, which is no slice{slices.hint(machine_type)}"
        why = unknown if machine_type else "its cores are known only once connected"
        raise UserError(f"{self.asked}: {why}; name the slice too: --tpu=v3-8@{self.address}")


def resolve(tpu: Place) -> Target:
    """Returns the target of a place; connects to nothing, and asks only the metadata server what "local" is.

    A place is None, ``virtual-8``, a slice or its name, ``SLICE@ADDRESS``, ``local``, a grpc:// address or a Cloud
    TPU's name. Several workers (TF_CONFIG) must have the same number of GPUs each, or none.

    Raises:
        UserError: It names no slice, or an impossible one.
    """
    if isinstance(tpu, slices.Slice):
        return _of_slice(f"slice.name={tpu.name!r}", tpu)
    if not tpu:
        workers = tf_config.here()
        hosts = len(workers.addresses) if workers else 1
        return Target(kind="here", asked="--tpu is missing", replicas=hosts * max(1, _gpus()), hosts=hosts)
    asked = f"--tpu={tpu}"
    if match := VIRTUAL.fullmatch(tpu):
        count = match["replicas"]
        if len(count) > 9 or not 1 <= int(count) <= 64:
            raise UserError(f"--tpu=virtual-{count[:20]}: expected 1 to 64 virtual CPU devices")
        return Target(kind="virtual", asked=asked, replicas=int(count))
    if tpu == "local":
        piece = slices.local()
        return _of_slice(asked, piece) if piece else Target(kind="tpu", asked=asked, address=tpu)
    name, at, address = tpu.partition("@")
    if at and not address:  # an unset variable
        raise UserError(f"{asked}: no address follows the @; expected {name}@ADDRESS, or {name} alone")
    if slices.is_known(name) or (at and "://" not in name):
        return _of_slice(asked, slices.find(tpu))
    return Target(kind="tpu", asked=asked, address=tpu)


def _of_slice(asked: str, piece: slices.Slice) -> Target:
    return Target(
        kind="tpu", asked=asked, replicas=piece.cores, hosts=piece.hosts, address=piece.address or "", slice=piece
    )


def _gpus() -> int:
    """Counts GPUs without a framework: the device files, limited by CUDA_VISIBLE_DEVICES."""
    present = sum(bool(GPU_DEVICE.fullmatch(path)) for path in glob.glob("/dev/nvidia*"))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return present
    return min(present, sum(device.strip() not in ("", "-1") for device in visible.split(",")))


def check(target: Target, *, together: bool = False) -> Target:
    """Returns a target with its address, after every check that needs no TensorFlow.

    For training, the workers of TF_CONFIG connect ``together``.

    Raises:
        UserError: Nothing is there, or the installed wheels would abort or cannot look it up.
    """
    if target.kind != "tpu":
        virtual = target.kind == "virtual"
        if (workers := tf_config.here()) and (virtual or not together):
            what = f"{target.asked} means devices of one process" if virtual else "this command runs in one process"
            raise UserError(f"{what}, and TF_CONFIG names {len(workers.addresses)} workers; unset TF_CONFIG")
        if not wheels.compiles_for_cpu():
            # "could not find registered transfer manager for platform Host", from the first compiled step
            raise UserError(
                f"{target.asked}: tensorflow-tpu has no XLA for this machine's CPU; expected a slice or local, "
                f"or another environment with requirements.txt"
            )
        return target
    wheels.check_wheels()
    address = target.address
    if not address:
        assert target.slice
        address = _address_here(target.asked, target.slice)
        piece = dataclasses.replace(target.slice, address=address)  # this checks it
        target = dataclasses.replace(target, address=address, slice=piece)
    if address == "local":
        if not tpu_attached():
            raise UserError(f"{target.asked}: this machine has no TPU chips (no {' or '.join(TPU_DEVICE_FILES)})")
        if wheels.installed("tensorflow-tpu") is None:
            how = pip_install("-r requirements-tpu.txt")
            raise UserError(f"{target.asked}: the installed TensorFlow has no TPU support; {how}")
    elif address.startswith("grpc://"):
        require_reachable(address)
    else:
        _require_lookup(target.asked, address)
    return target


def _address_here(asked: str, piece: slices.Slice) -> str:
    """Finds a slice's address: the TPU of this VM, or one that the environment names (Colab, GKE, another VM).

    A VM of a larger slice sees only its own chips, so such a slice is always reached by name.
    """
    if is_here(piece):
        return "local"
    if colab := os.environ.get("COLAB_TPU_ADDR"):
        return f"grpc://{colab}"
    for variable in ("KUBE_GOOGLE_CLOUD_TPU_ENDPOINTS", "TPU_NAME"):
        if address := os.environ.get(variable):
            return address
    missing = "only one of its hosts is here" if tpu_attached() else "no TPU is attached to this machine"
    raise UserError(
        f"{asked}: {missing} and no address is known; "
        f"give one as --tpu={piece.name}@ADDRESS, in the slice's gin file or in TPU_NAME"
    )


def tpu_attached() -> bool:
    """Whether this machine has TPU chips (a TPU VM)."""
    return any(glob.glob(pattern) for pattern in TPU_DEVICE_FILES)


def is_here(piece: slices.Slice) -> bool:
    """Whether this machine is a slice's only host, and so has the same files."""
    return piece.hosts == 1 and tpu_attached() and piece.address in (None, "local")


def require_reachable(address: str) -> None:
    """Raises UserError unless a gRPC server answers at a grpc:// address (or each host of a list)."""
    for part in address.split(","):
        try:
            url = urlsplit(part if "://" in part else f"grpc://{part}")
            host, port = url.hostname, url.port or GRPC_PORT
        except ValueError:
            host = None
        if not host:
            raise UserError(f"{part!r} is not an address; expected grpc://HOST:PORT")
        try:
            socket.create_connection((host, port), timeout=PROBE_SECONDS).close()
        except OSError as error:
            raise UserError(f"the TPU at {part} is not reachable ({error.strerror or error})") from None
        if not heartbeat.responds(f"{host}:{port}"):
            raise UserError(f"the TPU at {part} takes connections but does not answer; expected its TensorFlow server")


def _require_lookup(asked: str, name: str) -> None:
    """Raises UserError if a Cloud TPU's name cannot be looked up.

    A lookup needs a VM's service account, and packages that TensorFlow's resolver uses but does not install.
    """
    host, _, port = metadata.server().partition(":")
    try:
        socket.create_connection((host, int(port or 80)), timeout=PROBE_SECONDS).close()
    except (OSError, ValueError):  # ValueError: the port in GCE_METADATA_HOST is not a number
        raise UserError(
            f"{asked}: {name!r} is not a slice{slices.hint(name)}, and Cloud TPUs cannot be looked up by name "
            f"from here (no metadata server answers: this is not a Google Cloud machine)"
        ) from None
    missing = [package for package in API_CLIENT if wheels.installed(package) is None]
    if missing:
        raise UserError(
            f"{asked}: {name!r} cannot be looked up without {' and '.join(missing)}; "
            f"{pip_install(' '.join(API_CLIENT))} (requirements-tpu.txt has the versions)"
        )
