"""The corpus in every CPython installation: its language reference and its library's sources.

No download, a few megabytes, English and Python. It belongs to the running interpreter, so another patch release gives
another corpus (the listing's digest differs).
"""

import pathlib
import pydoc_data.topics
import sysconfig
from collections.abc import Iterator

from pipeline.data.corpora.base import Corpus, Document, Dropped, Input, Unit, grouped
from pipeline.data.format.settings import ShardConfig
from pipeline.errors import UserError

SKIPPED_FOLDERS = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test", "lib-dynload"}
TOPICS = "topics/"


def _is_library(path: pathlib.Path, root: pathlib.Path) -> bool:
    """Whether a module counts: not tests, files that a build wrote for one machine, or the topics again."""
    inside = path.relative_to(root)
    return (
        not SKIPPED_FOLDERS.intersection(inside.parts[:-1])
        and not inside.name.startswith(("test_", "_sysconfigdata"))
        and inside.parts[0] != "pydoc_data"
    )


class CPython(Corpus):
    """Topics of the documentation in alphabetical order, then the modules in the order of their paths."""

    def __init__(self, config: ShardConfig, source: str | None):
        if source:
            raise UserError(f"corpus 'cpython' takes no --source ({source!r}): it is part of the running interpreter")
        root = pathlib.Path(sysconfig.get_paths()["stdlib"])
        modules = sorted(path for path in root.rglob("*.py") if _is_library(path, root))
        topics = sorted(pydoc_data.topics.topics.items())
        self._inputs = [(Input(path="", name=TOPICS + name), len(text.encode())) for name, text in topics]
        for path in modules:
            name = "Lib/" + path.relative_to(root).as_posix()
            self._inputs.append((Input(path=str(path), name=name), path.stat().st_size))
        super().__init__(config, [(item.name, size) for item, size in self._inputs])

    def units(self) -> Iterator[Unit]:
        """Groups topics and modules into units of about 4 MiB."""
        return grouped(self._inputs, unit_bytes=4 << 20)

    def _documents(self, item: Input) -> Iterator[Document | Dropped]:
        if item.name.startswith(TOPICS):
            yield self.document(item.name, pydoc_data.topics.topics[item.name.removeprefix(TOPICS)])
        else:
            yield self.from_bytes(item.name, pathlib.Path(item.path).read_bytes())
