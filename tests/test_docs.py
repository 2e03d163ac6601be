"""What README.md and docs/ point to exists: files, sections, make targets, modules and their flags."""

import re

import pytest

from tests.helpers.places import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def anchors(page):
    heads = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in LINK.findall(FENCE.sub("", page.read_text())):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in anchors(target), f"{page.name} links to {link}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_name_modules_flags_and_targets_that_exist(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    flags = set()
    for path in [*ROOT.glob("pipeline/*.py"), *ROOT.glob("tools/**/*.py")]:
        flags |= set(re.findall(r'(?:DEFINE_\w+\(|define_paths?\(|add_argument\()\s*"(?:--)?(\w+)"', path.read_text()))
    text = "\n".join(FENCE.findall(page.read_text())).replace("\\\n", " ")
    for line in text.splitlines():
        command = line.partition(" #")[0].removeprefix("$ ")
        if target := re.match(r"make ([a-z][a-z-]*)", command):
            assert target[1] in targets, line
        if module := re.search(r"python -m ((?:pipeline|tools)[\w.]*)(.*)", command):
            place = ROOT / module[1].replace(".", "/")
            assert place.with_suffix(".py").exists() or (place / "__main__.py").exists(), line
            unknown = set(re.findall(r" --(\w+)", module[2])) - flags
            assert not unknown, f"{line}: {unknown}"


def test_named_tests_exist():
    """docs/promises.md names the tests that prove each promise."""
    page = ROOT / "docs" / "promises.md"
    named = re.findall(r"\[(test_\w+)\]\(([^)]+)\)", page.read_text())
    assert len(named) > 50
    for name, path in named:
        assert f"\ndef {name}(" in (page.parent / path).read_text(), f"{path} has no {name}"
