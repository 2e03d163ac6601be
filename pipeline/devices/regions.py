"""Whether a bucket is in the region of the TPU that reads it.

Reading from another region, or from a multi-region, is paid for by the byte and slower; from a dual-region it is free
in each of its two. Source: https://cloud.google.com/storage/pricing, under data transfer within Google Cloud.
"""

from pipeline.devices import metadata
from pipeline.storage.gcs import Location


def zone_of_tpu(zone: str | None) -> str:
    """Returns the zone that a slice states, or else that of this machine; an empty string where nobody knows it."""
    if zone or not metadata.is_expected():
        return zone or ""
    return metadata.zone()


def apart(location: Location, zone: str) -> str | None:
    """Returns a sentence, without its subject, if a bucket is not in the region of a TPU's zone; None if it is."""
    region = zone.rpartition("-")[0]
    if region in location.regions:
        return None
    kind = "" if location.kind == "region" else f"the {location.kind} "
    return (
        f"is in {kind}{location.name}, the TPU in {zone}: reading across regions costs egress and time; "
        f"expected a bucket in {region}"
    )
