"""Each slice has its type, its image and its zones; what Google Cloud would refuse is refused here, at once."""

import pytest

from pipeline.devices import slices
from pipeline.devices.tpu_specs import GENERATIONS
from pipeline.errors import UserError
from tools.pod import commands, offers, request
from tools.pod.request import Request


def test_each_generation_has_an_offer():
    assert list(offers.OFFERS) == list(GENERATIONS)


@pytest.mark.parametrize(
    ("tpu", "zone", "type_", "image"),
    [
        ("v2-8", "us-central1-b", "v2-8", "tpu-ubuntu2204-base"),
        ("v3-8", "us-central1-a", "v3-8", "tpu-ubuntu2204-base"),
        ("pod-128", "europe-west4-a", "v3-128", "tpu-ubuntu2204-base"),
        ("v4-32", "us-central2-b", "v4-32", "tpu-ubuntu2204-base"),
        ("v5e-16", "us-west4-a", "v5litepod-16", "v2-alpha-tpuv5-lite"),
        ("v5litepod-8", "us-west4-a", "v5litepod-8", "v2-alpha-tpuv5-lite"),
        ("v5p-16", "us-east5-a", "v5p-16", "v2-alpha-tpuv5"),
        ("v6e-8", "europe-west4-a", "v6e-8", "v2-alpha-tpuv6e"),
    ],
)
def test_a_slice_is_asked_for_by_googles_names(tpu, zone, type_, image):
    piece = request.find_slice(tpu)
    request.check_place(piece, zone, unlisted=False)
    words = commands.create(Request(name="mine", piece=piece, zone=zone))
    assert f"--accelerator-type={type_}" in words and f"--runtime-version={image}" in words


def test_every_slice_is_offered_somewhere_by_its_name():
    for name in slices.names():
        piece = slices.find(name)
        assert slices.find(offers.accelerator_type(piece)).chips == piece.chips
        for zone in offers.zones(piece):
            offers.check_zone(piece, zone)


@pytest.mark.parametrize(
    ("tpu", "zone", "says"),
    [
        ("v3-128", "us-central1-a", r"has no v3-128.*offered in europe-west4-a \("),
        ("v3-8", "europe-west4-b", r"has no v3-8 \(did you mean 'europe-west4-a'"),
        ("v4-32", "us-centrl2-b", r"is no zone with TPUs \(did you mean 'us-central2-b'"),
        ("v5e-16", "moon", "expected a zone such as europe-west4-b"),
        ("v3-182", "europe-west4-a", "did you mean 'v3-128'"),
        ("v3-8@10.0.0.2", "europe-west4-a", "expected a slice alone, such as v3-8"),
    ],
)
def test_a_wrong_place_names_the_right_one(tpu, zone, says):
    with pytest.raises(UserError, match=says):
        request.check_place(request.find_slice(tpu), zone, unlisted=False)


def test_a_zone_that_no_page_lists_can_be_insisted_on():
    request.check_place(slices.find("v4-8"), "us-central2-a", unlisted=True)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"name": "Mine"}, "lower case"),
        ({"spot": True, "reserved": True}, "exclude each other"),
        ({"service_account": "trainer"}, "NAME@PROJECT"),
        ({"labels": ("team",)}, "KEY=VALUE"),
        ({"valid_until_duration": "6 hours"}, "such as 6h"),
    ],
)
def test_what_google_cloud_would_refuse_is_refused_first(setting, says):
    with pytest.raises(UserError, match=says):
        Request(**{"name": "mine", "piece": slices.find("v3-8"), "zone": "europe-west4-a"} | setting)
