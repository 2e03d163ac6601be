"""What is alike on a disk and on Cloud Storage: files are committed whole or not at all, and read back."""

import os
import subprocess
import sys

import pytest

from pipeline import storage
from pipeline.errors import UserError
from tests.helpers.hostile import NAMES
from tests.helpers.places import ROOT
from tests.helpers.stored import LARGE, SMALL


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
