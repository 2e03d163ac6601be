"""An object appears whole or not at all, through every fault of an upload that a test can make."""

import pytest

from pipeline.errors import UnavailableError, UserError
from pipeline.storage import gcs as client
from pipeline.storage import gcs_upload
from tests.helpers.stored import LARGE, POST, PUT, SHARD, SMALL, crc


def sessions(gcs):
    """Resumable uploads that were begun."""
    return gcs.seen(POST, "resumable")


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["one request", "resumable"])
def test_uploads_ask_that_there_is_no_object_and_announce_the_checksum(gcs, publish, data):
    publish(data)
    uploads = gcs.seen(POST, "^/upload/")
    assert len(uploads) == 1 and uploads[0].query["ifGenerationMatch"] == "0"
    assert gcs.objects() == {"wikitext/train-00000.tfrecord": data}


def test_a_large_file_goes_in_chunks(gcs, publish):
    publish(LARGE)
    assert [request.size for request in gcs.seen(PUT)] == [8 << 20, 8 << 20, (1 << 20) + 12_345]


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["one request", "resumable"])
def test_an_object_that_exists_is_not_sent_again(gcs, publish, data):
    publish(data)
    before = len(gcs.seen(POST) + gcs.seen(PUT))
    publish(data)
    assert len(gcs.seen(POST) + gcs.seen(PUT)) == before


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["one request", "resumable"])
def test_no_object_appears_of_anything_but_the_announced_checksum(gcs, publish, data):
    with pytest.raises(UnavailableError, match="another crc32c than the file, 3 times"):
        publish(data, crc32c=crc(data) ^ 1)
    assert gcs.objects() == {}


UPLOAD_FAULTS = [
    ("status", 503),
    ("status", 429),
    ("status", 408),
    ("status", 500),
    ("cut_upload", 0),
    ("cut_reply", 0),
    ("no_reply", 0),
    ("slow", 1.5),
]


@pytest.mark.parametrize(("kind", "value"), UPLOAD_FAULTS)
def test_a_fault_in_one_request_is_survived(gcs, publish, timeouts, kind, value):
    timeouts(silence=1)
    fault = gcs.inject(kind, verb=POST, path="multipart", times=2, value=value)
    publish(SMALL)
    assert fault.hits >= 1
    assert gcs.objects() == {"wikitext/train-00000.tfrecord": SMALL}


@pytest.mark.parametrize(
    ("kind", "value", "chunk"),
    [(kind, value, 1) for kind, value in UPLOAD_FAULTS]
    + [(kind, 0, chunk) for kind in ("cut_upload", "cut_reply", "no_reply") for chunk in (0, 2)],
)
def test_a_resumable_upload_goes_on_after_a_fault_and_does_not_begin_again(gcs, publish, timeouts, kind, value, chunk):
    timeouts(silence=1)
    start = (8 << 20) * chunk
    fault = gcs.inject(kind, verb=PUT, path="resumable", value=value, content_range=f"bytes {start}-")
    publish(LARGE)
    assert fault.hits == 1 and len(sessions(gcs)) == 1
    ranges = [request.headers["content-range"].split("-")[0] for request in gcs.seen(PUT)]
    assert sorted(ranges, key=lambda text: int(text.split()[1])) == ranges and len(ranges) == 4
    assert gcs.objects() == {"wikitext/train-00000.tfrecord": LARGE}


def test_a_fault_at_the_beginning_of_a_resumable_upload_is_survived(gcs, publish):
    fault = gcs.inject("status", verb=POST, path="resumable", times=3, value=503)
    publish(LARGE)
    assert fault.hits == 3 and len(sessions(gcs)) == 4
    assert gcs.objects() == {"wikitext/train-00000.tfrecord": LARGE}


@pytest.mark.parametrize(("kind", "value"), [("status", 410), ("status", 404), ("kept_half", 0)])
def test_an_upload_that_cannot_go_on_begins_again(gcs, publish, kind, value):
    gcs.inject(kind, verb=PUT, path="resumable", value=value)
    publish(LARGE)
    assert len(sessions(gcs)) == 2
    assert gcs.objects() == {"wikitext/train-00000.tfrecord": LARGE}


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["one request", "resumable"])
def test_a_wrong_checksum_in_the_reply_is_not_believed(gcs, publish, data):
    fault = gcs.inject("wrong_crc32c", verb=POST if data is SMALL else PUT, path="^/upload/.*(multipart|resumable)")
    publish(data)
    assert fault.hits == 1
    assert gcs.objects() == {"wikitext/train-00000.tfrecord": data}


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["one request", "resumable"])
def test_a_service_that_insists_on_a_wrong_checksum_leaves_no_object(gcs, publish, data):
    gcs.inject("wrong_crc32c", times=99)
    with pytest.raises(UnavailableError, match="another crc32c"):
        publish(data)
    assert gcs.objects() == {}


@pytest.mark.parametrize(("theirs", "error"), [(SMALL, None), (SMALL[:-1], UserError)])
def test_of_two_writers_the_first_wins(gcs, publish, monkeypatch, theirs, error):
    look = client.stat
    answers = [lambda path: publish_theirs() or None]

    def publish_theirs():
        gcs_upload.upload_bytes(theirs, SHARD)

    monkeypatch.setattr(client, "stat", lambda path: (answers.pop() if answers else look)(path))
    if error:
        with pytest.raises(error, match="exists and holds other bytes"):
            publish(SMALL)
    else:
        publish(SMALL)
    assert gcs.objects() == {"wikitext/train-00000.tfrecord": theirs}
    assert [request.status for request in gcs.seen(POST)] == [200, 412]
