"""What Google Cloud offers: each generation's accelerator type, its base image and its zones.

Sources, as read in November 2026:
zones: https://cloud.google.com/tpu/docs/regions-zones; us-central1-f, for v2-8 and v3-8, is on its versions of 2024.
accelerator types: https://cloud.google.com/tpu/docs/v5e and similar pages, which call v5e v5litepod.
images: https://cloud.google.com/tpu/docs/runtimes. We use the plain ones: images with TensorFlow (tpu-vm-tf-…) have a
version other than requirements-tpu.txt's. Their Python is Ubuntu 22.04's 3.10; setup installs 3.11.
"""

from dataclasses import dataclass

from pipeline.devices import slice_rules
from pipeline.devices.slices import Slice
from pipeline.errors import UserError, nearest


@dataclass(frozen=True, kw_only=True)
class Offer:
    """One generation on Google Cloud.

    Args:
        prefix: The start of its accelerator types.
        image: The runtime version (software image) to request.
        zones: Where slices of any size are offered.
        small_zones: Where only slices of one host are offered.
    """

    prefix: str
    image: str
    zones: tuple[str, ...]
    small_zones: tuple[str, ...] = ()


OFFERS = {
    "v2": Offer(
        prefix="v2",
        image="tpu-ubuntu2204-base",
        zones=("us-central1-a", "europe-west4-a"),
        small_zones=("us-central1-b", "us-central1-c", "us-central1-f", "asia-east1-c"),
    ),
    "v3": Offer(
        prefix="v3",
        image="tpu-ubuntu2204-base",
        zones=("europe-west4-a",),
        small_zones=("us-central1-a", "us-central1-b", "us-central1-f"),
    ),
    "v4": Offer(prefix="v4", image="tpu-ubuntu2204-base", zones=("us-central2-b",)),
    "v5e": Offer(
        prefix="v5litepod",
        image="v2-alpha-tpuv5-lite",
        zones=("us-central1-a", "us-south1-a", "us-west1-c", "us-west4-a", "europe-west4-b"),
    ),
    "v5p": Offer(prefix="v5p", image="v2-alpha-tpuv5", zones=("us-central1-a", "us-east5-a", "europe-west4-b")),
    "v6e": Offer(
        prefix="v6e",
        image="v2-alpha-tpuv6e",
        zones=(
            *("us-central1-b", "us-east1-d", "us-east5-a", "us-east5-b"),
            *("europe-west4-a", "asia-northeast1-b", "southamerica-west1-a"),
        ),
    ),
}


def accelerator_type(piece: Slice) -> str:
    """Returns gcloud's name of a slice: v3-128 for pod-128, v5litepod-16 for v5e-16."""
    count = piece.chips * slice_rules.RULES[piece.generation].counted
    return f"{OFFERS[piece.generation].prefix}-{count}"


def zones(piece: Slice) -> list[str]:
    """Returns the zones in which a slice of this size is offered."""
    offer = OFFERS[piece.generation]
    return sorted((*offer.zones, *(offer.small_zones if piece.hosts == 1 else ())))


def check_zone(piece: Slice, zone: str) -> None:
    """Raises UserError, with the zones that have the slice, if this one does not."""
    offered = zones(piece)
    if zone in offered:
        return
    known = {name for offer in OFFERS.values() for name in (*offer.zones, *offer.small_zones)}
    what = f"has no {accelerator_type(piece)}" if zone in known else "is no zone with TPUs"
    likely = nearest(zone, offered if zone in known else known)
    raise UserError(
        f"--zone={zone} {what}{likely}; {piece.name} is offered in {', '.join(offered)} "
        f"(--unlisted_zone if your grant names this zone all the same)"
    )
