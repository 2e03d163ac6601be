"""Files are committed whole or not at all, on a disk and on Cloud Storage, through every fault that a test can make."""

import dataclasses
import os
import shutil
import subprocess
import sys
import threading
import time
import types
import zipfile

import google.auth
import google_crc32c
import numpy as np
import pytest
from google.auth import exceptions as auth_exceptions

from pipeline import storage
from pipeline.errors import UnavailableError, UserError
from pipeline.storage import disk, gcs_client, gcs_reader
from pipeline.storage import gcs as client
from tests.helpers.hostile import NAMES
from tests.helpers.places import ROOT

LARGE = np.random.default_rng(0).bytes((17 << 20) + 12_345)  # three chunks of a resumable upload
SMALL = LARGE[:100_000]  # one request
PUT, POST, SHARD = "PUT", "POST", "gs://corpus/wikitext/train-00000.tfrecord"


def crc(data):
    return google_crc32c.value(data)


@pytest.fixture
def publish(tmp_path):
    """Publishes bytes by way of a local file, of which nothing is left."""

    def run(data, path=SHARD, crc32c=None):
        local = tmp_path / "partial"
        local.write_bytes(data)
        storage.publish(str(local), path, crc(data) if crc32c is None else crc32c)
        assert not local.exists()

    return run


@pytest.fixture
def timeouts(monkeypatch):
    def change(**seconds):
        monkeypatch.setattr(gcs_client, "TIMEOUTS", dataclasses.replace(gcs_client.TIMEOUTS, **seconds))

    return change


@pytest.fixture(params=["local", "gs"])
def directory(request, tmp_path):
    if request.param == "gs":
        request.getfixturevalue("gcs")
        return "gs://corpus/data"
    (tmp_path / "data").mkdir()
    return str(tmp_path / "data")


def sessions(gcs):
    """Resumable uploads that were begun."""
    return gcs.seen(POST, "resumable")


# Alike on a disk and on gs://


@pytest.mark.parametrize("size", [0, 1, 100_000, len(LARGE)])
def test_what_was_published_is_read_back(directory, publish, size):
    path = storage.join(directory, "a/b") if storage.is_remote(directory) else storage.join(directory, "b")
    publish(LARGE[:size], path)
    assert storage.size(path) == size
    assert storage.read_bytes(path) == LARGE[:size]
    with storage.open_read(path) as file:
        assert file.read(10) == LARGE[: min(10, size)]
        assert file.seek(-size // 2, os.SEEK_END) == size - -(-size // 2)
        assert file.read() == LARGE[size - -(-size // 2) : size]


def test_the_same_bytes_again_are_success_and_others_are_refused(directory, publish):
    path = storage.join(directory, "shard")
    publish(SMALL, path)
    publish(SMALL, path)
    for other in (SMALL[:-1], SMALL[:-1] + b"x", b""):
        with pytest.raises(UserError, match="exists and holds other bytes"):
            publish(other, path)
    assert storage.read_bytes(path) == SMALL


def test_small_files_are_published_once(directory):
    path = storage.join(directory, "manifest.json")
    storage.publish_bytes(b"{}", path)
    storage.publish_bytes(b"{}", path)
    with pytest.raises(UserError, match="exists and holds other bytes"):
        storage.publish_bytes(b"[]", path)
    assert storage.read_bytes(path) == b"{}"
    assert storage.list_files(directory) == [(path, 2)]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_taken_as_they_are(directory, publish, name):
    for path in (storage.join(storage.join(directory, name), "a"), storage.join(directory, name) + ".json"):
        if not storage.is_remote(path):
            os.makedirs(os.path.dirname(path), exist_ok=True)
        storage.check_writable(path.rpartition("/")[0])
        publish(SMALL, path)
        storage.replace_bytes(b"{}", path)
        assert storage.size(path) == 2 and storage.read_bytes(path) == b"{}"
        assert storage.list_files(path.rpartition("/")[0]) == [(path, 2)]
        assert not storage.is_empty(path.rpartition("/")[0])
        if storage.is_remote(path):
            storage.delete_files(path.rpartition("/")[0])
        else:
            os.unlink(path)
    assert storage.is_empty(storage.join(directory, name + "-new"))


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_the_umask_says_who_may_read_what_is_written(tmp_path, publish, umask):
    before = os.umask(umask)
    try:
        publish(SMALL, str(tmp_path / "shard"))
        storage.publish_bytes(b"{}", str(tmp_path / "manifest.json"))
        storage.replace_bytes(b"{}", str(tmp_path / "summary.json"))
        with storage.partial_file(str(tmp_path)) as file:
            os.rename(file.name, tmp_path / "unit.run")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == dict.fromkeys(["shard", "manifest.json", "summary.json", "unit.run"], 0o666 & ~umask)


@pytest.mark.parametrize("folder", ["/proc", "/nowhere"])
def test_a_folder_in_which_no_file_can_be_made_is_one_sentence(folder):
    with pytest.raises(UserError, match=f"{folder} cannot be written to"), storage.partial_file(folder):
        pass


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    """The output's, where that is the full one, and not that of unfinished work."""
    work, output = tmp_path / "work", tmp_path / "output"
    for folder in (work, output):
        folder.mkdir()

    def full(*_):
        raise OSError(28, "No space left on device")

    def another_disk(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    monkeypatch.setattr(os, "rename", another_disk)
    with pytest.raises(UnavailableError, match=f"no space left in {output}: "), storage.partial_file(str(work)) as file:
        storage.publish(file.name, str(output / "shard"), 0)
    with pytest.raises(UnavailableError, match=f"no space left in {output}: "):
        monkeypatch.setattr(os, "fsync", full)
        storage.publish_bytes(b"{}", str(output / "manifest.json"))
    assert os.listdir(work) == os.listdir(output) == []


def test_space_is_counted_disk_by_disk_in_units_that_say_something(tmp_path, monkeypatch):
    free = {"a": 5 * 10**6, "b": 2 * 10**6}
    stat = os.stat
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, free[path[-1]]))
    for name in free:
        (tmp_path / name).mkdir()
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    disk.check_space({a: 3 * 10**6})
    with pytest.raises(UnavailableError, match=r"about 6.0 MB are needed in \S+/a, 5.0 MB are free"):
        disk.check_space({a + "/new": 3 * 10**6, b: 3 * 10**6})  # one disk
    monkeypatch.setattr(
        os, "stat", lambda path, **_: types.SimpleNamespace(st_dev=path) if path in (a, b) else stat(path)
    )
    with pytest.raises(UnavailableError, match=r"about 3.0 MB are needed in \S+/b, 2.0 MB are free"):
        disk.check_space({a: 3 * 10**6, b: 3 * 10**6})
    free["b"] = 0
    with pytest.raises(UnavailableError, match=r"about 700 bytes are needed in \S+/b, 0 bytes are free"):
        disk.check_space({b: 700})


def test_who_may_not_read_is_told_so(tmp_path, as_nobody):
    """Not that nothing is there, which cannot be known."""
    (tmp_path / "manifest.json").write_text("{}")
    operations = (storage.size, storage.read_bytes, storage.open_read, storage.list_files, storage.is_empty)
    tmp_path.chmod(0o700)
    for operation in operations:
        with as_nobody(), pytest.raises(UserError, match=r"manifest\.json: cannot be read \(Permission denied\)"):
            operation(str(tmp_path / "manifest.json"))
    tmp_path.chmod(0o744)  # names may be listed, but not looked up
    with as_nobody(), pytest.raises(UserError, match="cannot be read"):
        storage.list_files(str(tmp_path))


def test_only_the_files_of_a_directory_itself(directory, publish):
    for name in ("a.json", "deep/b.json", "deep/er/c.json"):
        path = storage.join(directory, name)
        if not storage.is_remote(path):
            os.makedirs(os.path.dirname(path), exist_ok=True)
        publish(b"{}", path)
    assert storage.list_files(directory, deep=False) == [(storage.join(directory, "a.json"), 2)]
    assert len(storage.list_files(directory)) == 3
    if storage.is_remote(directory):
        storage.delete_files(storage.join(directory, "deep/er"))
    assert storage.list_files(storage.join(directory, "deep"), deep=False) != []
    assert storage.list_files(storage.join(directory, "missing"), deep=False) is None


def test_a_folder_that_may_not_be_read_is_no_matter_where_it_is_not_asked_for(tmp_path, as_nobody):
    (tmp_path / "wandb").mkdir(mode=0o700)
    (tmp_path / "summary.json").write_text("{}")
    with as_nobody():
        assert storage.list_files(str(tmp_path), deep=False) == [(str(tmp_path / "summary.json"), 2)]
        with pytest.raises(UserError, match=r"wandb: cannot be read"):
            storage.list_files(str(tmp_path))


def test_a_name_that_no_disk_takes_is_refused_before_any_work(tmp_path):
    with pytest.raises(UserError, match="a name has 300 bytes; expected 255 at most there"):
        storage.check_writable(str(tmp_path / "new" / ("x" * 300)))


def test_what_is_not_there(directory):
    path = storage.join(directory, "missing")
    assert storage.size(path) is None
    assert storage.list_files(path) is None
    for read in (storage.read_bytes, storage.open_read):
        with pytest.raises(FileNotFoundError):
            read(path)


def test_google_cloud_storage_is_imported_by_gs_paths_only():
    code = (
        "import sys; from pipeline import storage; from pipeline.data.format import manifest;"
        "storage.read_bytes('Makefile');"
        "sys.exit(any(name.split('.')[0] in ('google', 'requests', 'numpy') for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_local_file_comes_over_from_another_disk(tmp_path, publish, monkeypatch):
    rename = os.rename

    def between_disks(source, target):
        if os.path.basename(source) == "partial":
            raise OSError(18, "Invalid cross-device link")
        rename(source, target)

    monkeypatch.setattr(os, "rename", between_disks)
    publish(SMALL, str(tmp_path / "shard"))
    assert sorted(os.listdir(tmp_path)) == ["shard"]
    assert (tmp_path / "shard").read_bytes() == SMALL


# Uploads


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
        client.upload_bytes(theirs, SHARD)

    monkeypatch.setattr(client, "stat", lambda path: (answers.pop() if answers else look)(path))
    if error:
        with pytest.raises(error, match="exists and holds other bytes"):
            publish(SMALL)
    else:
        publish(SMALL)
    assert gcs.objects() == {"wikitext/train-00000.tfrecord": theirs}
    assert [request.status for request in gcs.seen(POST)] == [200, 412]


# Reading and listing


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
            client.upload_bytes(bytes(name), f"gs://corpus/deep/{name % 2}/{name}")
        client.upload_bytes(b"", "gs://corpus/deep/empty/")  # the marker of a folder
        client.upload_bytes(b"", "gs://corpus/deeper")
        expected = sorted((f"gs://corpus/deep/{name % 2}/{name}", name) for name in range(10))
        for directory in ("gs://corpus/deep", "gs://corpus/deep/"):
            assert sorted(storage.list_files(directory)) == expected
        assert storage.list_files("gs://corpus/deep/empty") == []
    finally:
        gcs.page_size = 1000


def test_an_empty_bucket_is_a_directory(gcs):
    assert storage.list_files("gs://corpus") == storage.list_files("gs://corpus/") == []
    assert storage.size("gs://corpus") is None


# Refusals and giving up

OPERATIONS = {
    "size": lambda path: storage.size(path),
    "list": lambda path: storage.list_files(path),
    "read": lambda path: storage.read_bytes(path),
    "check": lambda path: storage.check_writable(path),
    "publish": lambda path: storage.publish_bytes(b"x", path),
}


def sentence(error):
    text = str(error.value)
    assert "\n" not in text and len(text) < 400
    return text


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_bucket_that_does_not_exist_is_named(gcs, operation):
    with pytest.raises(UserError, match="there is no bucket gs://absent") as error:
        OPERATIONS[operation]("gs://absent/data/a")
    assert sentence(error).startswith("gs://absent/data/a: ")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_bucket_that_refuses_is_named(gcs, operation):
    gcs.inject("status", path="/o", times=99, value=403)
    expected = (
        r"refuses access with 403 \(test@example\.com does not have access to it\); .* Object User on gs://corpus$"
    )
    with pytest.raises(UserError, match=expected) as error:
        OPERATIONS[operation]("gs://corpus/data/a")
    sentence(error)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_credentials_that_are_not_accepted_are_told(gcs, operation):
    gcs.inject("status", path="/o", times=99, value=401)
    with pytest.raises(UserError, match="no usable Google Cloud credentials") as error:
        OPERATIONS[operation]("gs://corpus/data/a")
    sentence(error)


def test_a_bucket_that_may_be_read_but_not_written_is_refused_before_any_work(gcs):
    gcs.inject("status", verb=POST, times=99, value=403)
    assert storage.list_files("gs://corpus") == []
    with pytest.raises(UserError, match="refuses access with 403"):
        storage.check_writable("gs://corpus/data")


def test_the_check_leaves_nothing(gcs):
    storage.check_writable("gs://corpus/data")
    storage.check_writable("gs://corpus")
    assert gcs.objects() == {}


def test_a_local_directory_that_could_not_be_made_is_refused_and_none_is_made(tmp_path, monkeypatch):
    storage.check_writable(str(tmp_path / "new" / "data"))
    (tmp_path / "file").write_bytes(b"")
    for path in ("file", "file/data/deep"):
        with pytest.raises(UserError, match=r"file is not a directory"):
            storage.check_writable(str(tmp_path / path))
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # as for anyone but root
    with pytest.raises(UserError, match="cannot be written to"):
        storage.check_writable(str(tmp_path / "new" / "data"))
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("path", ["gs://", "gs:///a", "gs://Upper/a", "gs://a b/c", "gs://x/a"])
def test_what_cannot_be_a_bucket_is_refused_without_asking(gcs, path):
    for operation in OPERATIONS.values():
        with pytest.raises(UserError, match="cannot be a bucket; expected gs://BUCKET/FOLDER"):
            operation(path)
    assert gcs.requests == []


@pytest.mark.parametrize(("kind", "value"), [("status", 503), ("no_reply", 0)])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_service_that_stays_down_is_given_up_in_time(gcs, timeouts, operation, kind, value):
    timeouts(give_up=0.3)
    fault = gcs.inject(kind, path="/o", times=10**6, value=value)
    start = time.monotonic()
    with pytest.raises(UnavailableError, match=r"given up after 0\.3 s of retries") as error:
        OPERATIONS[operation]("gs://corpus/data/a")
    assert time.monotonic() - start < 5 and fault.hits > 2
    assert "gs://corpus/data/a" in sentence(error)


def test_an_upload_that_is_cut_for_ever_is_given_up(gcs, publish, timeouts):
    timeouts(give_up=0.3)
    gcs.inject("cut_upload", verb=PUT, times=10**6)
    with pytest.raises(UnavailableError, match="given up"):
        publish(LARGE)
    assert gcs.objects() == {}


def test_no_connection_is_told(gcs, timeouts, monkeypatch):
    timeouts(give_up=0.3)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    with pytest.raises(UnavailableError, match="given up after"):
        storage.size(SHARD)


@pytest.fixture
def real_credentials(gcs, monkeypatch, tmp_path):
    """The library looks for credentials, as it does without an emulator, and finds none."""
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    monkeypatch.setenv("HOME", str(tmp_path))
    return monkeypatch


def test_missing_credentials_are_told_with_what_to_do(real_credentials):
    def none(**_):
        raise auth_exceptions.DefaultCredentialsError("Your default credentials were not found. See somewhere.")

    real_credentials.setattr(google.auth, "default", none)
    with pytest.raises(
        UserError, match=r"credentials \(Your default credentials were not found\).*gcloud auth"
    ) as error:
        storage.size(SHARD)
    sentence(error)


def test_a_key_file_that_is_missing_is_named(real_credentials):
    real_credentials.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere/key.json")
    with pytest.raises(UserError, match=r"/nowhere/key\.json"):
        storage.list_files("gs://corpus/a")


def test_the_search_for_credentials_is_bounded(real_credentials, timeouts):
    timeouts(credentials=0.2)
    real_credentials.setattr(google.auth, "default", lambda **_: threading.Event().wait(60))
    start = time.monotonic()
    with pytest.raises(UserError, match=r"looking for them took over 0\.2 s"):
        storage.size(SHARD)
    assert time.monotonic() - start < 5
