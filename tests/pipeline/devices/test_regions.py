"""Buckets beside the TPU and far from it, on the emulator of Cloud Storage."""

import pytest

from pipeline.config.run_config import note_distance
from pipeline.devices import metadata, regions, slices, tpu_target
from pipeline.storage import gcs as gcs_paths

PAIR = {"location": "US", "locationType": "dual-region"}
HERE = {"location": "US-CENTRAL1", "locationType": "region"}


def target(zone, name="v3-8"):
    found = tpu_target.resolve(name)
    if found.slice is None:
        return found
    return tpu_target.resolve(slices.Slice(**vars(found.slice) | {"zone": zone}))


@pytest.fixture
def told(gcs, capsys):
    """A function that returns what is said of the bucket ``corpus``, described so, to a target."""

    def say(described, to):
        for property_, value in described.items():
            gcs.store.buckets["corpus"][property_] = value
        note_distance(to, "gs://corpus/data")
        return capsys.readouterr().err

    return say


@pytest.mark.parametrize(
    ("described", "zone", "place"),
    [
        (HERE, "us-central1-a", None),
        (HERE, "us-central2-b", "us-central1"),
        (HERE, "europe-west4-a", "us-central1"),
        ({"location": "US", "locationType": "multi-region"}, "us-central1-a", "the multi-region us"),
        ({"location": "NAM4", "locationType": "dual-region"}, "us-central1-a", None),
        ({"location": "NAM4", "locationType": "dual-region"}, "us-east5-a", "the dual-region nam4"),
        (PAIR | {"customPlacementConfig": {"dataLocations": ["US-EAST5", "US-WEST1"]}}, "us-east5-b", None),
        (
            PAIR | {"customPlacementConfig": {"dataLocations": ["US-EAST4", "US-WEST1"]}},
            "us-east5-b",
            "the dual-region us",
        ),
        ({"location": "US-CENTRAL1", "locationType": "zone"}, "us-central1-a", None),
    ],
)
def test_a_bucket_elsewhere_is_one_line_that_names_both(told, described, zone, place):
    said = told(described, target(zone))
    if place is None:
        assert said == ""
        return
    region = zone.rpartition("-")[0]
    assert said == (
        f"note: the bucket of --data=gs://corpus/data is in {place}, the TPU in {zone}: "
        f"reading across regions costs egress and time; expected a bucket in {region}\n"
    )


def test_without_a_zone_in_gin_it_is_that_of_the_machine(told, metadata_server, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")  # for the bucket
    metadata_server.say({"zone": "projects/123/zones/europe-west4-a"})
    assert "is in us-central1, the TPU in europe-west4-a:" in told(HERE, target(None))


def test_nothing_is_asked_where_there_is_no_tpu_or_no_zone(told, gcs, monkeypatch):
    assert told(HERE, target(None, "virtual-2")) == ""
    monkeypatch.setattr(metadata, "is_expected", lambda: False)
    assert told(HERE, target(None)) == "" and regions.zone_of_tpu(None) == ""
    assert not gcs.requests


@pytest.mark.parametrize("status", [401, 403, 404, 500])
def test_an_account_that_may_not_see_the_bucket_trains_in_silence(told, gcs, status):
    """storage.buckets.get is not among the rights of Storage Object User."""
    # Twice: the library's own thread may ask once for the bucket too, to name it in traces.
    fault = gcs.inject("status", verb="GET", path="/b/corpus", value=status, times=2)
    assert told(HERE, target("europe-west4-a")) == "" and fault.hits
    assert gcs_paths.location("gs://absent/data") is None
