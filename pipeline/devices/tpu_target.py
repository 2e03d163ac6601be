"""Resolves ``--tpu`` before TensorFlow is imported, so that a mistake costs a second and not a minute.

Imports neither TensorFlow nor Keras. Every failure is one UserError sentence; nothing here waits longer than
PROBE_SECONDS for an answer, while TensorFlow's own resolver asks a missing metadata server for minutes.
"""

import dataclasses
import glob
import importlib.metadata
import importlib.util
import os
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from pipeline.devices import metadata, slices, tf_config
from pipeline.errors import UserError, nearest

PROBE_SECONDS = 1.0
GRPC_PORT = 8470
API_CLIENT = ("google-api-python-client", "oauth2client")
TPU_DEVICE_FILES = ("/dev/accel*", "/dev/vfio/[0-9]*")
# tensorflow-tpu 2.20.0 aborts the whole process when it is imported beside a later libtpu ("… not available in this
# library"), although its own requirements allow them. Tried: 0.0.21 and 0.0.24 work; 0.0.32.1, 0.0.40, 0.0.52 abort.
LAST_LIBTPU_FOR = {"2.20": (0, 0, 24)}


@dataclass(frozen=True, kw_only=True)
class Target:
    """The devices to connect to.

    Args:
        kind: "here" (this machine's GPUs or CPU), "virtual" (virtual CPU devices) or "tpu".
        replicas: For "virtual": how many; otherwise 0, known after connecting.
        address: For "tpu": TPUClusterResolver's argument: "local", a grpc:// address or a Cloud TPU's name.
        slice: The requested slice, if any, or the one that this TPU VM is.
    """

    kind: str
    replicas: int = 0
    address: str = ""
    slice: slices.Slice | None = None


def resolve(tpu: slices.Place, *, together: bool = False) -> Target:
    """Returns the target of a place, after every check that needs no TensorFlow.

    Args:
        tpu: None, ``virtual-8``, a slice's name, ``SLICE@ADDRESS``, ``local``, a grpc:// address or a Cloud TPU's name;
            or the slice itself.
        together: Whether the workers of TF_CONFIG connect together, as they do for training.

    Raises:
        UserError: There is nothing there, or the installed wheels would abort or cannot look it up.
    """
    if isinstance(tpu, slices.Slice):
        check_wheels()
        return _at_address(f"slice.name={tpu.name!r}", tpu)
    match = slices.VIRTUAL.fullmatch(tpu or "")
    if (not tpu or match) and (workers := tf_config.here()) and (match or not together):
        what = f"--tpu={tpu} means devices of one process" if match else "this command runs in one process"
        raise UserError(f"{what}, and TF_CONFIG names {len(workers.addresses)} workers; unset TF_CONFIG")
    if (not tpu or match) and not compiles_for_cpu():
        # "could not find registered transfer manager for platform Host", from the first compiled step
        what = f"--tpu={tpu}" if match else "--tpu is missing"
        raise UserError(
            f"{what}: tensorflow-tpu has no XLA for this machine's CPU; expected a slice or local, "
            f"or another environment with requirements.txt"
        )
    if not tpu:
        return Target(kind="here")
    if match:
        return Target(kind="virtual", replicas=slices.virtual_replicas(match["replicas"]))
    check_wheels()
    if tpu == "local":
        _require_attached_tpu("--tpu=local")
        return Target(kind="tpu", address="local", slice=slices.local())
    piece = slices.find(tpu) if slices.is_known(tpu.partition("@")[0]) else None
    if "@" in tpu and piece is None:
        slices.find(tpu)
    return _at_address(f"--tpu={tpu}", piece, tpu)


def _at_address(asked: str, piece: slices.Slice | None, address: str = "") -> Target:
    """Returns the target of a slice, or of a TPU known by address only, after checking that its address answers."""
    if piece and not piece.address:
        piece = dataclasses.replace(piece, address=_address_here(asked, piece))  # which the slice checks
    address = (piece and piece.address) or address
    if address == "local":
        _require_attached_tpu(asked)
    elif address.startswith("grpc://"):
        require_reachable(address)
    else:
        _require_metadata_server(asked, address)
        _require_api_client(asked, address)
    return Target(kind="tpu", address=address, slice=piece)


def _address_here(asked: str, piece: slices.Slice) -> str:
    """Finds a slice's address: the TPU of this VM, or one named by the environment (Colab, GKE, a VM beside the TPU).

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
    """Whether this machine is a slice's only host, and so shares its files."""
    return piece.hosts == 1 and tpu_attached() and piece.address in (None, "local")


def _require_attached_tpu(asked: str) -> None:
    if not tpu_attached():
        raise UserError(f"{asked}: this machine has no TPU chips (no {' or '.join(TPU_DEVICE_FILES)})")
    if installed("tensorflow-tpu") is None:
        raise UserError(f"{asked}: the installed TensorFlow has no TPU support; pip install -r requirements-tpu.txt")


def require_reachable(address: str) -> None:
    """Raises UserError unless a grpc:// address (every host of a list) accepts TCP connections."""
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


def _require_metadata_server(asked: str, name: str) -> None:
    """Raises UserError without a metadata server: a Cloud TPU's name is looked up through a VM's service account."""
    host, _, port = metadata.server().partition(":")
    try:
        socket.create_connection((host, int(port or 80)), timeout=PROBE_SECONDS).close()
    except (OSError, ValueError):  # ValueError: the port in GCE_METADATA_HOST is not a number
        hint = nearest(name, slices.names())
        raise UserError(
            f"{asked}: {name!r} is not a slice{hint}, and Cloud TPUs cannot be looked up by name from here "
            f"(no metadata server answers: this is not a Google Cloud machine)"
        ) from None


def _require_api_client(asked: str, name: str) -> None:
    """Raises UserError without the packages that TensorFlow's resolver uses but does not install."""
    missing = [package for package in API_CLIENT if installed(package) is None]
    if missing:
        raise UserError(
            f"{asked}: {name!r} cannot be looked up without {' and '.join(missing)}; "
            f"pip install {' '.join(API_CLIENT)} (requirements-tpu.txt has the versions)"
        )


def check_wheels() -> None:
    """Raises UserError if the installed tensorflow-tpu would abort beside the installed libtpu.

    Call it before importing TensorFlow, which would end the process without an exception.
    """
    tensorflow, libtpu = installed("tensorflow-tpu"), installed("libtpu")
    if tensorflow is None:
        return
    if libtpu is None:
        raise UserError(f"tensorflow-tpu {tensorflow} needs libtpu; pip install -r requirements-tpu.txt")
    last = LAST_LIBTPU_FOR.get(".".join(tensorflow.split(".")[:2]))
    if last and tuple(int(part) for part in libtpu.split(".")[:3] if part.isdigit()) > last:
        expected = ".".join(map(str, last))
        raise UserError(
            f"tensorflow-tpu {tensorflow} aborts beside libtpu {libtpu}; "
            f"pip install libtpu=={expected} (requirements-tpu.txt has the set that works)"
        )
    if installed("tensorflow") is not None:
        raise UserError(
            "tensorflow and tensorflow-tpu are both installed; pip uninstall tensorflow, then reinstall the other"
        )


def compiles_for_cpu() -> bool:
    """Whether XLA compiles for the CPU here: the TPU build of TensorFlow compiles for TPUs only."""
    return installed("tensorflow-tpu") is None


def installed(package: str) -> str | None:
    """Returns the version of an installed package, without importing it, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
