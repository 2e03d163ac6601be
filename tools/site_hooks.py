"""Hooks for mkdocs (mkdocs.yml): add pages outside docs/ to the site, and make links to other files work.

README.md becomes the first page. A file that a page links to, such as a test, is copied to the site's files/; a link to
a folder becomes its name.
"""

import functools
import os
import pathlib
import re
from typing import Any
from urllib.parse import unquote

from mkdocs.structure.files import File, Files

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUTER_PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s#]*)(#[^)\s]*)?\)")
FENCE = re.compile(r"(^```.*?^```)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages outside docs/ and the files that pages link to."""
    for name in OUTER_PAGES:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    for page in [*files.documentation_pages()]:
        place = _place(page.src_uri)
        for match in LINK.finditer(FENCE.sub("", page.content_string)):
            target = _target(place, match[2])
            if target and target.is_file() and not files.get_file_from_path(_name(target)):
                files.append(File.generated(config, _name(target), abs_src_path=str(target)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Rewrites a page's links that leave docs/, except in code blocks."""
    parts = FENCE.split(markdown)
    rewrite = functools.partial(_rewritten, page.file.src_uri)
    return "".join(part if part.startswith("```") else LINK.sub(rewrite, part) for part in parts)


def _rewritten(uri: str, match: re.Match[str]) -> str:
    target = _target(_place(uri), match[2])
    if target is None:
        return match[0]
    if target.is_dir():
        return match[1]
    name = os.path.relpath(_name(target), os.path.dirname(uri))
    return f"[{match[1]}]({name}{match[3] or ''})"


def _place(uri: str) -> pathlib.Path:
    """Returns the page's file in the project."""
    return ROOT / uri if uri in OUTER_PAGES else ROOT / "docs" / uri


def _target(page: pathlib.Path, link: str) -> pathlib.Path | None:
    """Returns the file or folder of the project that a link leads to, or None for a link of another kind."""
    if not link or "://" in link or link.startswith("mailto:"):
        return None
    target = pathlib.Path(os.path.normpath(page.parent / unquote(link)))
    return target if target.exists() and target.is_relative_to(ROOT) else None


def _name(target: pathlib.Path) -> str:
    """Returns a file's path in the site's source."""
    inside = target.relative_to(ROOT).as_posix()
    if inside in OUTER_PAGES:
        return inside
    return inside.removeprefix("docs/") if inside.startswith("docs/") else f"files/{inside}"
