"""Environment variables that TensorFlow's TPU build needs before it is imported, by slice and by role.

Sources: ``export_env_variables`` in dags/solutions_team/configs/tensorflow/common.py of
https://github.com/GoogleCloudPlatform/ml-auto-solutions, Google's release tests of TensorFlow 2.18;
https://cloud.google.com/tpu/docs/runtimes (v5e, v5p and v6e have only PJRT); for the hosts of a slice,
``tensorflow/python/tools/grpc_tpu_worker.py`` of the wheel tensorflow-tpu 2.20.0.
"""

import importlib.util
import math
import os
import pathlib
import sys
from collections.abc import Mapping, MutableMapping, Sequence

from pipeline.devices.slices import Slice
from pipeline.errors import UserError, pip_install

PJRT = ("v5e", "v5p", "v6e")  # generations that TensorFlow reaches only by PJRT
BY_LIBTPU = ("v4", "v5e", "v5p", "v6e")  # generations on which libtpu finds its place in the slice itself
MESH_PORT = 8476
LOADS, LIBRARY = "TPU_LOAD_LIBRARY", "TF_PLUGGABLE_DEVICE_LIBRARY_PATH"
NAMES = (LOADS, LIBRARY, "PJRT_DEVICE", "NEXT_PLUGGABLE_DEVICE_USE_C_API")


def variables(piece: Slice | None, address: str, libtpu: str | None = None) -> dict[str, str]:
    """Returns the variables of a program that trains on a slice.

    Args:
        piece: The slice; None if only an address is known.
        address: "local", or anything else for a slice that the program drives from outside.
        libtpu: Path of libtpu.so; None = that of the installed package.
    """
    if address != "local":
        # Otherwise libtpu loads here too, and asks a metadata server for a TPU of this machine's own: for minutes where
        # there is none, and taking the chips away from the server that works with them where there is one.
        return {LOADS: "0"}
    if piece is None or piece.generation not in PJRT:
        return {}
    return {
        "PJRT_DEVICE": "TPU",
        "NEXT_PLUGGABLE_DEVICE_USE_C_API": "true",
        LIBRARY: libtpu_path() if libtpu is None else libtpu,
    }


def worker_variables(piece: Slice, index: int, hosts: Sequence[str], libtpu: str | None = None) -> dict[str, str]:
    """Returns the variables of the TensorFlow server on one of a slice's hosts.

    Args:
        piece: The slice.
        index: The host's index.
        hosts: IP address of each host.
        libtpu: As above.
    """
    found = variables(piece, "local", libtpu) | {
        "CLOUD_TPU_TASK_ID": str(index),
        "TPU_LOCK_DEVICE": "true",
        "TPU_MESH_CONTROLLER_ADDRESS": f"{hosts[0]}:{MESH_PORT}",
        "TPU_MESH_CONTROLLER_PORT": str(MESH_PORT),
        "TPU_HOSTNAME_OVERRIDE": hosts[index],
    }
    if piece.generation not in BY_LIBTPU:
        wide, high = (int(edge) // 2 for edge in piece.topology.split("x"))
        assert math.prod((wide, high)) == piece.hosts
        found |= {"TPU_CHIPS_PER_HOST_BOUNDS": "2,2,1", "TPU_HOST_BOUNDS": f"{wide},{high},1"}
    return found


def apply(
    piece: Slice | None, address: str, environ: MutableMapping[str, str] = os.environ, libtpu: str | None = None
) -> None:
    """Sets a training program's variables in this process; keeps what the user has set, with a note.

    Raises:
        UserError: The user has set a combination that would abort the process.
    """
    wanted, own = variables(piece, address, libtpu), {name: environ[name] for name in NAMES if environ.get(name)}
    if _aborts(own):
        raise UserError(
            f"{LOADS}=0 and {LIBRARY} abort TensorFlow together; unset one of them, or both: they are set here"
        )
    if _aborts(wanted | own):
        named = ", ".join(f"{name}={value}" for name, value in own.items())
        print(f"note: {named} is kept, and so what {address} would take is not set", file=sys.stderr)
        return
    for name, value in own.items():
        if wanted.get(name, value) != value:
            print(f"note: {name}={value} is kept; it would be {wanted[name]} here", file=sys.stderr)
    environ.update(wanted | own)


def _aborts(setting: Mapping[str, str]) -> bool:
    """Whether the process would abort when TensorFlow is imported (exit code 134)."""
    return setting.get(LOADS) == "0" and bool(setting.get(LIBRARY))


def libtpu_path() -> str:
    """Returns the path of the installed libtpu.so; UserError if there is none."""
    found = importlib.util.find_spec("libtpu")
    for folder in (found.submodule_search_locations or ()) if found else ():
        path = pathlib.Path(folder) / "libtpu.so"
        if path.is_file():
            return str(path)
    raise UserError(f"libtpu is not installed; {pip_install('-r requirements-tpu.txt')}")
