"""The pages build as a site (make docs): each link and heading that they name is there, and each page has its place."""

import pathlib

import pytest

from tests.helpers.places import ROOT

REASON = "pip install -r requirements-docs.txt"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site; a warning, such as of a link that leads nowhere, ends the build."""
    pytest.importorskip("mkdocs", reason=REASON)
    pytest.importorskip("material", reason=REASON)
    from mkdocs.commands import build
    from mkdocs.config import load_config

    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path_factory.mktemp("site")))
    assert config.strict
    config.plugins.on_startup(command="build", dirty=False)
    build.build(config)
    return pathlib.Path(config.site_dir)


def test_the_site_has_every_page_and_what_they_link_to(site):
    for page in (ROOT / "docs").glob("*.md"):
        assert (site / page.stem / "index.html").exists(), page.name
    start = (site / "index.html").read_text()
    assert 'class="mermaid"' in start and 'href="pods/#what-was-seen-to-work"' in start
    assert 'href="docs/' not in start, "a link to where the page is on GitHub"
    assert "test_read_shards.py" in (site / "read_shards" / "index.html").read_text()
    assert (site / "files/tests/pipeline/data/reading/test_read_shards.py").exists()
