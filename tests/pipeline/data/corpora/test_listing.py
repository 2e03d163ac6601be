"""A name that exists is read, whatever its characters; what is passed over is counted."""

import os

import pytest

from pipeline.data.corpora import listing
from pipeline.data.corpora.listing import find
from pipeline.errors import UserError

NAMES = ("t [v2]", "[", "what?", "a*b", "{x}", "~", "#1", "100%", "%20", "a=b,c", "'q' \"d\"", " sp ", "é", "?g=1#f")


@pytest.fixture(params=["local", "gs"])
def put(request, tmp_path):
    """Writes a file below a root, ``put.root``, which is local or on Cloud Storage."""
    gcs = request.getfixturevalue("gcs") if request.param == "gs" else None

    def write(name, data=b"text"):
        if gcs:
            gcs.put(f"in/{name}", data)
        else:
            (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "in" / name).write_bytes(data)

    write.root = "gs://corpus/in" if gcs else str(tmp_path / "in")
    return write


def names(source):
    return [file.name for file in find(source, (".txt",), "test").files]


@pytest.mark.parametrize("odd", NAMES)
def test_a_name_that_is_there_is_no_pattern(put, odd):
    put(f"{odd}/{odd}.txt")
    put(f"{odd}/x.txt")
    put("other/t v.txt")
    both = sorted([f"{odd}.txt", "x.txt"])
    assert names(f"{put.root}/{odd}") == names(f"{put.root}/{odd}/") == names(f"{put.root}/{odd}/*.txt") == both
    assert names(f"{put.root}/{odd}/{odd}.txt") == [f"{odd}.txt"]
    assert names(f"{put.root}/oth*") == ["other/t v.txt"]


def test_names_of_a_disk_alone(tmp_path):
    for odd in ("a\nb", os.fsdecode(b"caf\xe9")):
        (tmp_path / odd).mkdir()
        (tmp_path / odd / f"{odd}.txt").write_text("text")
        assert names(f"{tmp_path}/{odd}") == names(f"{tmp_path}/{odd}/*.txt") == [f"{odd}.txt"]


def test_what_nobody_meant_as_text_is_passed_over_and_counted(put):
    for name in ("a.txt", "A.TXT", "b/c.txt.gz", "x.part/d.txt", "#tag.txt", "README.md"):
        put(name)
    for name in ("._a.txt", "b/__MACOSX/a.txt", ".DS_Store", ".a.txt", "a.txt~", "#a.txt#", "~$a.txt", "b/c.txt.part"):
        put(name)
    listed = find(put.root, (".txt",), "test")
    assert [file.name for file in listed.files] == sorted(["a.txt", "A.TXT", "b/c.txt.gz", "x.part/d.txt", "#tag.txt"])
    note = "passed over, by kind with the first of each: 2 hidden (.DS_Store), 2 resource fork (._a.txt), 4 temporary"
    assert listed.notes == (f"{note} (#a.txt#)",)
    assert names(f"{put.root}/*.part") == ["b/c.txt.part"], "it is asked for"
    assert find(f"{put.root}/b/*.gz", (".txt",), "test").notes == ()


def test_linked_folders_are_followed_and_each_is_read_once(tmp_path):
    for name in ("real/a.txt", "real/deep/b.txt", "outside/c.txt"):
        (tmp_path / "in" / name if "real" in name else tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name if "real" in name else tmp_path / name).write_text("text")
    for name, target in (("1", "real"), ("2", "../outside"), ("3", "../outside"), ("real/up", ".."), ("4.txt", "gone")):
        (tmp_path / "in" / name).symlink_to(target)
    (tmp_path / "outside" / "back").symlink_to("../in")
    (tmp_path / "in" / "linked.txt").symlink_to("real/a.txt")
    os.mkfifo(tmp_path / "in" / "pipe.txt")
    listed = find(str(tmp_path / "in"), (".txt",), "test")
    assert [file.name for file in listed.files] == ["2/c.txt", "linked.txt", "real/a.txt", "real/deep/b.txt"]
    again, first = listing.READ_ALREADY, "passed over, by kind with the first of each: 1 dead link (4.txt)"
    assert listed.notes == (f"{first}, 4 {again} (1/), 1 neither file nor folder (pipe.txt)",)


def test_a_directory_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("text")

    def walk(folder, onerror):
        onerror(PermissionError(13, "Permission denied", f"{folder}/secret"))

    monkeypatch.setattr(listing.os, "walk", walk)
    with pytest.raises(UserError, match=r"--source=\S+/in cannot be read: \S+/in/secret: Permission denied"):
        find(str(tmp_path / "in"), (".txt",), "test")
