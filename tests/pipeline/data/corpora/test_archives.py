"""OpenWebText-shaped archives: every shape gives the same documents, every damage is named, nothing is unpacked."""

import io
import lzma
import os
import tarfile

import pytest

from pipeline.data.corpora import open_corpus, openwebtext
from pipeline.data.corpora.archives import _plain, is_unsafe, members
from pipeline.data.corpora.base import Dropped
from pipeline.data.format.settings import ShardConfig
from pipeline.errors import UserError


def tar(files, format=tarfile.GNU_FORMAT):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            if content is None:
                info.type = tarfile.DIRTYPE
            elif isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
            else:
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return out.getvalue()


def inner(first, count=7):
    return lzma.compress(tar({f"{first + i:07d}-hash.txt": f"page {first + i} é\n".encode() for i in range(count)}))


INNER = {f"openwebtext/urlsf_subset{i:02}-{i}_data.xz": inner(100 * i) for i in range(5)}


@pytest.fixture(params=["tar.xz", "directory", "tars"])
def source(request, tmp_path):
    """The three published shapes of one corpus."""
    if request.param == "tar.xz":
        (tmp_path / "openwebtext.tar.xz").write_bytes(lzma.compress(tar({"openwebtext": None} | INNER)))
        return str(tmp_path / "openwebtext.tar.xz")
    if request.param == "directory":
        for name, data in INNER.items():
            (tmp_path / name.rpartition("/")[2]).write_bytes(data)
        return str(tmp_path)
    for number, (name, data) in enumerate(INNER.items()):
        (tmp_path / f"urlsf_subset{number:02}.tar").write_bytes(tar({name: data}))
    return str(tmp_path)


def corpus_of(source, **settings):
    settings = {"corpus": "openwebtext", "name": "openwebtext", "validation_fraction": 0.0} | settings
    return open_corpus(ShardConfig(**settings), str(source))


def read(source, **settings):
    corpus = corpus_of(source, **settings)
    return [
        item
        if isinstance(item, Dropped)
        else (item.id, item.text if isinstance(item.text, str) else "".join(item.text))
        for unit in corpus.units()
        for item in corpus.documents(unit)
    ]


@pytest.mark.parametrize("unit_bytes", [1, 700, 1 << 20])
def test_every_shape_gives_the_same_documents(source, monkeypatch, unit_bytes):
    monkeypatch.setattr(openwebtext, "UNIT_BYTES", unit_bytes)
    expected = [
        (f"urlsf_subset{i:02}-{i}_data.xz/{100 * i + j:07d}-hash.txt", f"page {100 * i + j} é\n")
        for i in range(5)
        for j in range(7)
    ]
    assert read(source) == expected


def test_every_shape_gives_the_same_shards(source, tmp_path, shard, digests):
    manifest = shard(source, tmp_path / "out", corpus="openwebtext", name="openwebtext", shards=2)
    assert manifest.parts["train"].documents == 35
    shards = [value for name, value in digests(tmp_path / "out").items() if name.endswith(".tfrecord")]
    assert shards == EXPECTED.setdefault("shards", shards)


EXPECTED: dict[str, list[str]] = {}


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_those_of_the_library(format):
    name = "a/" + "long" * (20 if format == tarfile.USTAR_FORMAT else 60) + ".txt"
    files = {name: b"x" * 700, "é.txt": b"", "folder": None, "link": "a.txt", "b.txt": b"y" * 512}
    members_read = [(member.name, member.read()) for member in members(io.BytesIO(tar(files, format)), "t")]
    assert members_read == [(name, b"x" * 700), ("é.txt", b""), ("b.txt", b"y" * 512)]


def header_of(read, header):
    """The fields of a header that are used, or that the reader refuses it."""
    try:
        info = read(header)
    except tarfile.HeaderError:
        return "refused"
    return (info.name, info.size, info.isreg()) if info else "left to the library"


@pytest.mark.parametrize("name", ["page.txt", "é" * 50, "x" * 100, "folder/"])
def test_a_plain_header_is_read_as_the_library_reads_it_whichever_byte_is_damaged(name):
    info = tarfile.TarInfo(name)
    info.size = 0o12345670
    header = info.tobuf(tarfile.USTAR_FORMAT, "utf-8")
    taken = 0
    for place in [*range(100), *range(124, 136), *range(148, 157), *range(345, 512)]:  # name, size, checksum …
        for byte in {header[place], 0, 32, ord("0"), ord("7"), ord("9"), ord("/"), 0x80}:
            damaged = header[:place] + bytes([byte]) + header[place + 1 :]
            mended = damaged[:148] + b"%06o\0 " % tarfile.calc_chksums(damaged)[0] + damaged[156:]
            for sample in (damaged, mended):
                ours = header_of(_plain, sample)
                library = header_of(lambda raw: tarfile.TarInfo.frombuf(raw, "utf-8", "surrogateescape"), sample)
                assert ours in (library, "left to the library"), (place, byte)
                taken += ours == library
    assert taken > 500 or name.endswith("/")


def test_unread_members_are_skipped():
    data = tar({"a": b"1" * 5000, "b": b"2" * 10, "c": b"3"})
    assert [member.name for member in members(io.BytesIO(data), "t")] == ["a", "b", "c"]


def test_names_that_would_leave_the_directory_are_counted_and_write_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    bad = {"/etc/evil.txt": b"1", "../up.txt": b"2", "a/../../up.txt": b"3", "..\\up.txt": b"4"}
    (tmp_path / "in" / "x_data.xz").write_bytes(lzma.compress(tar(bad | {"fine.txt": b"5", "a..b.txt": b"6"})))
    documents = read(tmp_path / "in")
    assert [item for item in documents if not isinstance(item, Dropped)] == [
        ("x_data.xz/fine.txt", "5"),
        ("x_data.xz/a..b.txt", "6"),
    ]
    assert [item.reason for item in documents if isinstance(item, Dropped)] == ["unsafe member name"] * 4
    assert sorted(os.listdir(tmp_path)) == ["in"] and not os.path.exists("/etc/evil.txt")
    assert is_unsafe("..") and is_unsafe("\\\\host\\share") and not is_unsafe("a/b.txt")


def test_drops_are_counted_by_reason(tmp_path):
    pages = {"a.txt": b"", "b.txt": b"\0\0", "c.txt": b"\xff", "d.md": b"no", "e.txt": b"yes"}
    (tmp_path / "x_data.xz").write_bytes(lzma.compress(tar(pages)))
    reasons = [item.reason for item in read(tmp_path) if isinstance(item, Dropped)]
    assert reasons == ["empty", "NUL", "undecodable", "not .txt"]


def test_what_looks_like_a_zip_file_is_not_sniffed(tmp_path):
    """One published inner archive begins with bytes that sniffers take for zip: only names decide."""
    (tmp_path / "openwebtext.tar").write_bytes(
        tar({"PK\x03\x04_data.xz": INNER["openwebtext/urlsf_subset01-1_data.xz"]})
    )
    assert len(read(tmp_path)) == 7


def whole_archive():
    return lzma.compress(tar(INNER))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("o.tar.xz", lambda: whole_archive()[:-400], "o.tar.xz is truncated or corrupt"),
        ("o.tar.xz", lambda: b"\xfd7zXZ\0" + b"x" * 500, "o.tar.xz is truncated or corrupt"),
        ("o.tar.xz", lambda: b"no archive" * 100, "o.tar.xz is truncated or corrupt"),
        ("o.tar", lambda: tar(INNER)[:700], "o.tar is truncated in member 'openwebtext/urlsf_subset00-0_data.xz'"),
        ("o.tar", lambda: b"x" * 2000, "o.tar is corrupt or not a tar archive, after its beginning"),
        ("o.tar", lambda: tar({"a_data.xz": inner(0)[:-30]}), "inner archive 'a_data.xz' is truncated or corrupt"),
        ("o.tar", lambda: tar({"a_data.xz": lzma.compress(b"y" * 999)}), "a_data.xz is corrupt or not a tar archive"),
        ("o.tar", lambda: tar({"a.txt": b"page"}), "member 'a.txt' is not an inner archive"),
        ("o.tar", lambda: tar({"folder": None}), "o.tar holds no inner archive"),
        ("a_data.xz", lambda: lzma.compress(tar({"p.txt": b"y" * 2000})[:1500]), "truncated in member 'p.txt'"),
        (
            "a_data.xz",
            lambda: lzma.compress(tar({"p.txt": b"y"})[:1024]),
            "a_data.xz is truncated after member 'p.txt'",
        ),
    ],
)
def test_damage_is_one_line_that_names_the_member(tmp_path, shard, name, data, message):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(data())
    with pytest.raises(UserError, match=message):
        shard(tmp_path / "in", tmp_path / "out", corpus="openwebtext", name="openwebtext")
    assert not (tmp_path / "out").exists()


def test_outer_and_inner_archives_are_not_mixed(tmp_path):
    (tmp_path / "a_data.xz").write_bytes(inner(0))
    (tmp_path / "b.tar").write_bytes(tar(INNER))
    with pytest.raises(UserError, match="mixes outer archives"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("published", "message"),
    [
        ({"documents": 36, "archives": 5}, "35 documents, but the published OpenWebText has 36"),
        ({"documents": 35, "archives": 6}, "5 inner archives, but the published OpenWebText has 6"),
    ],
)
def test_published_totals_are_checked(source, monkeypatch, published, message):
    corpus = corpus_of(source)
    corpus.published = openwebtext.Published(**published, least_bytes=0)
    corpus._is_published = True
    if source.endswith(".tar.xz"):
        corpus.published = corpus.published._replace(sha256=sha256_of(source))
    documents = [item for unit in corpus.units() for item in corpus.documents(unit)]
    with pytest.raises(UserError, match=message):
        corpus.check_totals(len(documents))


def sha256_of(path):
    import hashlib

    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_the_published_archives_sha256_is_checked(tmp_path):
    path = tmp_path / "openwebtext.tar.xz"
    path.write_bytes(whole_archive())
    corpus = corpus_of(path)
    corpus._is_published = True
    with pytest.raises(UserError, match=rf"has sha256 {sha256_of(path)}, but the published one has 9fe39d"):
        list(corpus.units())


def test_what_macos_packs_beside_the_archives_is_passed_over_and_counted(tmp_path):
    fork, page = b"\0\5\x16\7" + bytes(40), b"page one"
    packed = lzma.compress(tar({"._1.txt": fork, "./1.txt": page, ".DS_Store": fork}))
    (tmp_path / "o.tar").write_bytes(tar({"o/._a_data.xz": fork, "o/a_data.xz": packed, "o/.DS_Store": fork}))
    (tmp_path / "._o.tar").write_bytes(fork)
    corpus = corpus_of(tmp_path)
    [unit] = corpus.units()
    forked, document, hidden = corpus.documents(unit)
    assert (forked.reason, document.text, hidden.reason) == ("resource fork", "page one", "hidden")
    assert corpus.notes == (
        "passed over, by kind with the first of each: 1 resource fork (._o.tar)",
        "passed over, by kind with the first of each: 1 hidden (o/.DS_Store), 1 resource fork (o/._a_data.xz)",
    )
