"""A local disk: permissions, names, room, and files that come from another disk."""

import os
import shutil
import types

import pytest

from pipeline import storage
from pipeline.errors import UnavailableError, UserError
from pipeline.storage import disk
from tests.helpers.stored import SMALL


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


def test_a_file_that_could_not_be_written_is_refused_and_none_is_made(tmp_path, as_nobody):
    (tmp_path / "there").write_bytes(b"kept")
    for name in ("new.json", "there"):
        storage.check_file(str(tmp_path / name))
    with pytest.raises(UserError, match="that is a directory"):
        storage.check_file(str(tmp_path))
    with pytest.raises(UserError, match="its folder does not exist"):
        storage.check_file(str(tmp_path / "none" / "new.json"))
    with pytest.raises(UserError, match="cannot be written to"):
        storage.check_file("/proc/new.json")  # not even by root, whose rights say otherwise
    tmp_path.chmod(0o777)
    (tmp_path / "there").chmod(0o444)
    with as_nobody(), pytest.raises(UserError, match="there: it cannot be written to"):
        storage.check_file(str(tmp_path / "there"))
    assert os.listdir(tmp_path) == ["there"] and (tmp_path / "there").read_bytes() == b"kept"


def test_a_local_directory_that_could_not_be_made_is_refused_and_none_is_made(tmp_path, as_nobody):
    storage.check_writable(str(tmp_path / "new" / "data"))
    (tmp_path / "file").write_bytes(b"")
    for path in ("file", "file/data/deep"):
        with pytest.raises(UserError, match=r"file is not a directory"):
            storage.check_writable(str(tmp_path / path))
    with pytest.raises(UserError, match="^/proc cannot be written to"):
        storage.check_writable("/proc")
    with pytest.raises(UserError, match="^/proc/new/data: /proc cannot be written to"):
        storage.check_writable("/proc/new/data")  # not even by root, whose rights say otherwise
    with as_nobody(), pytest.raises(UserError, match="cannot be written to"):
        storage.check_writable(str(tmp_path / "new" / "data"))
    assert os.listdir(tmp_path) == ["file"]
