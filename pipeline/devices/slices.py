"""TPU slices: the devices that a name (``pod-128``) stands for, known before connecting.

Imports neither TensorFlow nor Keras, so that a dry run prints a pod's batch arithmetic at once. The name determines a
slice: its size by its generation's rules (slice_rules.py), its memory by its generation's table (tpu_specs.py).
``slices/NAME.gin`` binds the same in gin without being a file, unless gin/slices has a file of that name, for another
name (``pod-128``), an address or another figure.
"""

import dataclasses
import math
import os
import pathlib
import re
from dataclasses import dataclass

from pipeline.devices import metadata, slice_rules
from pipeline.devices.tpu_specs import GENERATIONS, Generation
from pipeline.errors import UserError, nearest
from pipeline.gin_files import ROOT, Configuration

FOLDER = ROOT / "slices"


@dataclass(frozen=True, kw_only=True)
class Slice:
    """A TPU slice, by its name or a gin file; the machine is checked against it after connecting.

    Args:
        name: Its name for ``--tpu``.
        generation: Of its chips: "v3" or "v5e", for example.
        topology: Chips along each edge, as libtpu writes it: "8x8", "2x2x4".
        cores: Devices that a program sees; each is one replica.
        hosts: Machines; each reads its own part of the data.
        hbm_gib_per_core: Memory of one such device, in GiB; for a slice found by name, its generation's (tpu_specs.py).
        address: A Cloud TPU's name, a grpc:// address, or "local" on a TPU VM that is the whole slice; None = found
            when the run starts.
        zone: The Cloud TPU's zone; None = this machine's.
        project: The Cloud TPU's project; None = this machine's.

    Raises:
        UserError: The generation is unknown, or the figures contradict each other.
    """

    name: str
    generation: str
    topology: str
    cores: int
    hosts: int
    hbm_gib_per_core: float
    address: str | None = None
    zone: str | None = None
    project: str | None = None

    def __post_init__(self) -> None:
        if self.generation not in GENERATIONS:
            hint = nearest(self.generation, GENERATIONS)
            raise UserError(f"slice.generation={self.generation!r} is not one of {', '.join(GENERATIONS)}{hint}")
        if not re.fullmatch(r"[1-9]\d{0,3}(x[1-9]\d{0,3}){1,2}", self.topology):
            raise UserError(f"slice.topology={self.topology!r} must be chips along each edge, such as '8x8' or '2x2x4'")
        expected = self.chips * self.specs.cores_per_chip
        if self.cores != expected:
            raise UserError(
                f"{self.name}: {self.topology} chips of {self.generation} have {expected} cores, not {self.cores}"
            )
        if self.hosts < 1 or self.cores % self.hosts:
            raise UserError(f"slice {self.name!r}: hosts={self.hosts} does not divide cores={self.cores}")
        if self.hbm_gib_per_core <= 0:
            raise UserError(f"slice {self.name!r}: hbm_gib_per_core={self.hbm_gib_per_core} must be above 0")
        if self.address == "local" and self.hosts > 1:  # each of its VMs sees only its own chips
            raise UserError(
                f"{self.name} has {self.hosts} hosts, and 'local' reaches the chips of one; "
                f"give the TPU's name or address: --tpu={self.name}@NAME"
            )

    @property
    def chips(self) -> int:
        """Total chips."""
        return math.prod(map(int, self.topology.split("x")))

    @property
    def specs(self) -> Generation:
        """The figures of a core of the generation."""
        return GENERATIONS[self.generation]


def names() -> list[str]:
    """Returns the names of all slices: first those that only a file describes, then each generation's by size."""
    return [*_names_of_files_alone(), *slice_rules.names()]


def is_known(name: str) -> bool:
    """Whether the slice exists (``v5litepod-N`` is Google's name for ``v5e-N``)."""
    return _file_of(name).is_file() or slice_rules.shape(_ours(name)) is not None


def find(name: str) -> Slice:
    """Returns the slice of this name (``NAME@ADDRESS`` sets its address too); UserError names the nearest one."""
    name, _, address = name.partition("@")
    if _file_of(name).is_file():
        configuration = Configuration({"slice": Slice}, [FOLDER.parent], gin_text)
        configuration.read([f"slices/{_file_of(name).name}"])
        found = configuration.get(Slice)
    elif slice_rules.shape(_ours(name)):
        found = by_rule(_ours(name))
    else:
        known = ", ".join([*_names_of_files_alone(), *slice_rules.ranges()])
        way_out = (
            ""
            if address or slice_rules.near(_ours(name))
            else f"; if it is a Cloud TPU's name, name its slice too: --tpu=v3-8@{name}"
        )
        raise UserError(f"no slice is called {name!r}{hint(name)}; known: {known}{way_out}")
    return dataclasses.replace(found, address=address) if address else found


def by_rule(name: str) -> Slice:
    """Returns the slice that its generation's rules describe, whatever the files say."""
    shape = slice_rules.shape(name)
    assert shape, name
    specs = GENERATIONS[shape.generation]
    return Slice(
        name=name,
        generation=shape.generation,
        topology=shape.topology,
        cores=shape.chips * specs.cores_per_chip,
        hosts=shape.hosts,
        hbm_gib_per_core=specs.hbm_gib,
    )


def gin_text(file: str) -> str | None:
    """Returns what ``slices/NAME.gin`` (slices/v3-64.gin) binds if it is no file: the slice of that name.

    None for another kind of file; UserError, with the nearest slices, for a name close to a slice's.
    """
    match = re.fullmatch(r"((?:.*/)?)(v\d[\w.-]{0,100}?)(?:\.gin)?", file)
    name = _ours(match[2]) if match else ""
    known, of_slices = slice_rules.shape(name), file.startswith(("slices/", "gin/slices/"))
    if not name or not (known or of_slices):
        return None
    if not known or not of_slices or not file.endswith(".gin"):
        raise UserError(f"no gin file {file!r} here or under gin/{hint(name, 'slices/{}.gin')}")
    bound = {field: value for field, value in vars(by_rule(name)).items() if value is not None}
    return "".join(f"slice.{field} = {value!r}\n" for field, value in bound.items())


def hint(name: str, form: str = "{}") -> str:
    """Returns ``" (did you mean 'v3-64' or 'v3-128'?)"``, as ``errors.nearest`` does, in the form of what was asked."""
    near = [name] if slice_rules.shape(name) else slice_rules.near(_ours(name))
    if not near:
        return nearest(form.format(name), map(form.format, names()))
    return f" (did you mean {' or '.join(repr(form.format(other)) for other in near)}?)"


def local() -> Slice | None:
    """Returns this TPU VM's slice, None if it is unknown; UserError if the VM is one of several hosts."""
    name = accelerator_type()
    return find(f"{name}@local") if is_known(name) else None


def accelerator_type() -> str:
    """Returns this TPU VM's accelerator type ("v3-8", "v5litepod-4"); an empty string if unknown."""
    return os.environ.get("TPU_ACCELERATOR_TYPE") or metadata.attribute("accelerator-type")


def _ours(name: str) -> str:
    return name.replace("v5litepod-", "v5e-")


def _file_of(name: str) -> pathlib.Path:
    return FOLDER / f"{_ours(name)}.gin" if re.fullmatch(r"[\w.-]{1,100}", name) else FOLDER / "-"


def _names_of_files_alone() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.gin") if not slice_rules.shape(path.stem))
