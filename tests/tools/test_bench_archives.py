"""The benchmark of archives packs text as OpenWebText is published, so that its reader finds each page."""

import tarfile

from pipeline.data.corpora import open_corpus
from pipeline.data.format.settings import ShardConfig
from tools.benchmarks import archives


def test_the_reader_of_openwebtext_finds_each_page(tmp_path):
    pages = [f"page {number}, " * 40 for number in range(archives.PAGES + 10)]
    file = tmp_path / "openwebtext.tar.xz"
    assert archives.pack(file, iter(pages)) == sum(map(len, pages))
    with tarfile.open(file) as outer:
        names = outer.getnames()
    assert names == [f"openwebtext/urlsf_subset00-{number}_data.xz" for number in (0, 1)]
    config = ShardConfig(corpus="openwebtext", name="openwebtext", validation_fraction=0.0)
    corpus = open_corpus(config, str(file))
    documents = [document for unit in corpus.units() for document in corpus.documents(unit)]
    assert [document.text for document in documents] == pages


def test_the_half_that_is_packed_is_that_which_zlib_compresses_least():
    repetitive = [f"{number}" + "the same " * 300 for number in range(20)]
    varied = ["".join(chr(33 + (number * 7919 + place * place) % 90) for place in range(300)) for number in range(20)]
    assert sorted(archives.dense(repetitive + varied)) == sorted(varied)
