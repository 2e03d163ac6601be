"""The flags for a slice: its name, size and place, and how to request it."""

import re
from dataclasses import dataclass

from pipeline.devices import slices
from pipeline.devices.slices import Slice
from pipeline.errors import UserError
from tools.pod import offers

NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")  # https://google.aip.dev/122, as the Cloud TPU API checks it
LABEL = re.compile(r"[a-z][-_a-z0-9]{0,62}=[-_a-z0-9]{0,63}")
DURATION = re.compile(r"\d+[smhd]")


@dataclass(frozen=True, kw_only=True)
class Request:
    """A slice on Google Cloud, existing or planned.

    Args:
        name: Of the queued resource and of its TPU.
        piece: The slice.
        zone: Where it is.
        project: Its project; None: the one in gcloud's configuration.
        spot: May be preempted at any time; uses preemptible quota.
        reserved: From the project's reservation.
        service_account: The e-mail address that its hosts run as; None: the project's default one.
        network: VPC network; None: "default".
        subnetwork: Its subnetwork in the zone's region; None: the network's.
        labels: KEY=VALUE each, for the bill.
        valid_until_duration: How long the request may wait, such as "6h"; None: forever.

    Raises:
        UserError: Google Cloud would reject it.
    """

    name: str
    piece: Slice
    zone: str
    project: str | None = None
    spot: bool = False
    reserved: bool = False
    service_account: str | None = None
    network: str | None = None
    subnetwork: str | None = None
    labels: tuple[str, ...] = ()
    valid_until_duration: str | None = None

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise UserError(f"--name={self.name}: expected a letter, then up to 62 of a-z, 0-9 and -, all lower case")
        if self.spot and self.reserved:
            raise UserError("--spot and --reserved exclude each other; expected one of them, or neither (on demand)")
        if self.service_account and "@" not in self.service_account:
            raise UserError(f"--service_account={self.service_account}: expected an address, NAME@PROJECT.iam.…")
        for label in self.labels:
            if not LABEL.fullmatch(label):
                raise UserError(f"--labels={label}: expected KEY=VALUE, in lower case")
        until = self.valid_until_duration
        if until and not DURATION.fullmatch(until):
            raise UserError(f"--valid_until_duration={until}: expected a number and s, m, h or d, such as 6h")

    @property
    def hosts(self) -> range:
        """The indices of its hosts."""
        return range(self.piece.hosts)


def find_slice(name: str) -> Slice:
    """Returns the slice of --tpu; UserError if it names no slice, or an address, which this command finds itself."""
    if "@" in name:
        raise UserError(f"--tpu={name}: expected a slice alone, such as {name.partition('@')[0]}; its address is found")
    return slices.find(name)


def check_place(piece: Slice, zone: str, *, unlisted: bool) -> None:
    """Raises UserError if the zone does not have the slice, unless --unlisted_zone."""
    if not re.fullmatch(r"[a-z]+-[a-z]+\d+-[a-z]\w*", zone):
        raise UserError(f"--zone={zone}: expected a zone such as {offers.zones(piece)[0]}")
    if not unlisted:
        offers.check_zone(piece, zone)
