"""Whether a bucket is in the region of the TPU that reads it.

Reading from another region, or from a multi-region, is slower and costs money per byte; from a dual-region it is free
in both of its regions. Source: https://cloud.google.com/storage/pricing, under data transfer within Google Cloud.
"""

from pipeline.devices import metadata
from pipeline.storage.gcs import Location


def zone_of_tpu(zone: str | None) -> str:
    """Returns the zone that a slice states, else this machine's zone; an empty string if it is unknown."""
    if zone or not metadata.is_expected():
        return zone or ""
    return metadata.zone()


def apart(location: Location, zone: str) -> str | None:
    """Returns a sentence, without its subject, if a bucket is outside the region of a TPU's zone, else None."""
    region = zone.rpartition("-")[0]
    if region in location.regions:
        return None
    kind = "" if location.kind == "region" else f"the {location.kind} "
    return (
        f"is in {kind}{location.name}, the TPU in {zone}: reading across regions costs egress and time; "
        f"expected a bucket in {region}"
    )
