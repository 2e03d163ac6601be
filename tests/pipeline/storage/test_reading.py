"""Objects are read and listed whole, through every fault of a download that a test can make."""

import zipfile

import pytest

from pipeline import storage
from pipeline.errors import UnavailableError
from pipeline.storage import gcs_reader, gcs_upload
from tests.helpers.stored import LARGE, SHARD


@pytest.mark.parametrize(
    ("kind", "value"),
    [("status", 503), ("status", 429), ("status", 408), ("cut_reply", 0), ("no_reply", 0), ("slow", 1.5)],
)
def test_a_fault_while_reading_is_survived(gcs, publish, timeouts, kind, value):
    timeouts(silence=1)
    publish(LARGE)
    fault = gcs.inject(kind, verb="GET", path="alt=media", times=2, value=value)
    assert storage.read_bytes(SHARD) == LARGE
    assert fault.hits == 2


def test_a_reply_that_was_cut_is_taken_up_where_it_broke_off(gcs, publish):
    publish(LARGE)
    fault = gcs.inject("cut_reply", verb="GET", path="alt=media")
    assert storage.read_bytes(SHARD) == LARGE
    first, second = (int(request.headers["range"][6:].split("-")[0]) for request in gcs.seen("GET", "^/download")[:2])
    assert fault.hits == 1 and first == 0 and 0 < second < gcs_reader.FIRST_BYTES


def test_damage_on_the_way_is_found(gcs, publish):
    publish(LARGE)
    gcs.inject("damaged", verb="GET", path="alt=media")
    with pytest.raises(UnavailableError, match="what was read has crc32c"), storage.open_read(SHARD) as file:
        while file.read(1 << 20):
            pass


def test_an_object_that_is_replaced_while_it_is_read_is_not_mixed(gcs, publish):
    publish(LARGE)
    with storage.open_read(SHARD) as file:
        assert file.read(1000) == LARGE[:1000]
        gcs.store.delete_file("corpus", "wikitext/train-00000.tfrecord")
        publish(LARGE[::-1])
        with pytest.raises(UnavailableError, match="replaced or deleted while it was read"):
            file.read()


def test_reading_here_and_there_does_not_fetch_the_rest(gcs, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in range(17):
            archive.writestr(f"{name}.txt", LARGE[name << 20 : (name + 1) << 20])
    storage.publish(str(tmp_path / "a.zip"), SHARD, storage.file_crc32c(str(tmp_path / "a.zip")))
    with zipfile.ZipFile(storage.open_read(SHARD)) as archive:
        assert archive.read("11.txt") == LARGE[11 << 20 : 12 << 20]
    spans = [request.headers["range"][6:].split("-") for request in gcs.seen("GET", "^/download")]
    assert sum(int(last) - int(first) + 1 for first, last in spans) < 4 << 20


def test_an_object_that_is_streamed_is_not_held(gcs, publish):
    publish(LARGE)
    with storage.open_read(SHARD) as file:
        while file.read(1 << 16):
            assert len(file.raw._window) <= gcs_reader.MOST_BYTES
    assert len(gcs.seen("GET", "^/download")) == 7  # 0.25, 0.5, 1, 2, 4, 8 MiB and the rest


def test_listings_are_whole_whatever_a_page_holds(gcs):
    gcs.page_size = 3
    try:
        for name in range(10):
            gcs_upload.upload_bytes(bytes(name), f"gs://corpus/deep/{name % 2}/{name}")
        gcs_upload.upload_bytes(b"", "gs://corpus/deep/empty/")  # the marker of a folder
        gcs_upload.upload_bytes(b"", "gs://corpus/deeper")
        expected = sorted((f"gs://corpus/deep/{name % 2}/{name}", name) for name in range(10))
        for directory in ("gs://corpus/deep", "gs://corpus/deep/"):
            assert sorted(storage.list_files(directory)) == expected
        assert storage.list_files("gs://corpus/deep/empty") == []
    finally:
        gcs.page_size = 1000


def test_an_empty_bucket_is_a_directory(gcs):
    assert storage.list_files("gs://corpus") == storage.list_files("gs://corpus/") == []
    assert storage.size("gs://corpus") is None
