"""Listing a source: a file, a directory or a glob; local or gs://. A name that exists is never a pattern.

Linked folders are followed. Each folder is read once, under its own path where it has one in the source, so that
neither a loop nor a second link gives a document twice.
"""

import fnmatch
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from pipeline import storage
from pipeline.data.corpora.sources import suffix
from pipeline.errors import UserError
from pipeline.texts import printable

TEMPORARY = ("~", ".tmp", ".temp", ".swp", ".part", ".partial", ".crdownload")
READ_ALREADY = "linked folder that is read already"


class File(NamedTuple):
    """A file of the source: ``name`` is its path inside the source, so that moving a source changes no id."""

    path: str
    name: str
    size: int


class PassedOver:
    """The files of a source that no reader takes for text, by kind: how many, and the first name."""

    def __init__(self) -> None:
        self._kinds: dict[str, tuple[int, str]] = {}

    def add(self, kind: str, name: str) -> None:
        """Counts one more."""
        count, first = self._kinds.get(kind, (0, name))
        self._kinds[kind] = (count + 1, min(first, name))

    def notes(self) -> tuple[str, ...]:
        """One note for the manifest and the terminal, or none."""
        kinds = [f"{count:,} {kind} ({printable(first)})" for kind, (count, first) in sorted(self._kinds.items())]
        return (f"passed over, by kind with the first of each: {', '.join(kinds)}",) if kinds else ()


class Listing(NamedTuple):
    """The files of a source, sorted by name, and notes on what was passed over."""

    files: list[File]
    notes: tuple[str, ...]


def kind_passed_over(name: str) -> str:
    """The kind of a file, folder or archive member that nobody meant as text, or an empty string."""
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    if "__MACOSX" in parts or any(part.startswith("._") for part in parts):
        return "resource fork"
    if any(part.startswith(".") for part in parts):
        return "hidden"
    if "_temporary" in parts or any(_is_temporary(part) for part in parts[-1:]):
        return "temporary"
    return ""


def _is_temporary(name: str) -> bool:
    return name.endswith(TEMPORARY) or name.startswith("~$") or (name[:1] == name[-1:] == "#")


def find(source: str | None, endings: Sequence[str], corpus: str) -> Listing:
    """Lists the files of a source.

    Args:
        source: a file, a directory (searched with its folders for names with ``endings``), or a glob.
        endings: such as '.txt', in either case; a compression suffix may follow.
        corpus: named in errors.

    Raises:
        UserError: no source, one that does not exist or cannot be read, or one that holds nothing.
    """
    if not source:
        raise UserError(f"corpus {corpus!r} needs --source: a file, a directory or a glob, local or gs://")
    try:
        files, passed_over = _find(source, endings)
    except PermissionError as error:
        place = f"{error.filename}: " if error.filename not in (None, source) else ""
        raise UserError(f"--source={source} cannot be read: {place}{error.strerror or error}") from error
    notes = passed_over.notes()
    if not files:
        also = f" ({notes[0]})" if notes else ""
        raise UserError(f"--source={source} holds no file named *{', *'.join(endings)} for corpus {corpus!r}{also}")
    if not sum(file.size for file in files):
        raise UserError(f"--source={source} is empty: {len(files)} files of 0 bytes")
    return Listing(files, notes)


def _find(source: str, endings: Sequence[str]) -> tuple[list[File], PassedOver]:
    passed_over = PassedOver()
    size = storage.size(source) if not source.endswith("/") else None
    if size is not None:
        if not storage.is_remote(source) and not os.access(source, os.R_OK):
            raise PermissionError(13, "permission denied")
        return [File(source, source.rpartition("/")[2], size)], passed_over
    root, pattern, listed = _rooted(source)
    root = root.rstrip("/") + "/"
    files = []
    for path, size_or_kind in listed:
        name = path.removeprefix(root)
        if pattern and not fnmatch.fnmatchcase(name, pattern):
            continue
        kind = kind_passed_over(name) if isinstance(size_or_kind, int) else size_or_kind
        if kind and not (kind == "temporary" and pattern.endswith(TEMPORARY)):
            passed_over.add(kind, name)
        elif isinstance(size_or_kind, int) and (pattern or _matches(name.lower(), endings)):
            files.append(File(path, name, size_or_kind))
    return sorted(files, key=lambda file: file.name), passed_over


def _matches(name: str, endings: Sequence[str]) -> bool:
    return name.removesuffix(suffix(name)).endswith(tuple(endings)) or name.endswith(tuple(endings))


def _rooted(source: str) -> tuple[str, str, Iterable[tuple[str, int | str]]]:
    """The longest beginning of a source that is a directory, the pattern that its rest is, and what is below."""
    head, pattern = source.rstrip("/") or "/", ""
    while (listed := _list(head)) is None:
        if not re.search(r"[*?\[]", head):
            what = "is neither a file nor a directory" if os.path.exists(head) else "does not exist"
            raise UserError(f"--source={source} {what}")
        head, slash, last = head.rpartition("/")
        head, pattern = head.rstrip("/") or slash or ".", f"{last}/{pattern}" if pattern else last
    return head, pattern, listed


def _list(directory: str) -> Iterable[tuple[str, int | str]] | None:
    """Lists (path, bytes, or the kind of what is not a file) below a directory; None where there is none."""
    if storage.is_remote(directory):
        return storage.list_files(directory)
    try:
        state = os.stat(directory)
    except PermissionError:
        raise
    except (OSError, ValueError):
        return None
    return _walk(directory) if stat.S_ISDIR(state.st_mode) else None


def _walk(root: str) -> Iterator[tuple[str, int | str]]:
    waiting, seen = [root], set()
    while waiting:  # linked folders come last: what has a path of its own in the source keeps it
        for folder, folders, names in os.walk(waiting.pop(0), onerror=_raise):
            state = os.stat(folder)
            if (state.st_dev, state.st_ino) in seen:
                yield folder + "/", READ_ALREADY
                folders.clear()
                continue
            seen.add((state.st_dev, state.st_ino))
            for name in sorted(folders):
                path, kind = os.path.join(folder, name), kind_passed_over(f"{name}/-")
                if kind:
                    yield path + "/", kind
                elif os.path.islink(path):
                    waiting.append(path)
                else:
                    continue
                folders.remove(name)
            folders.sort()
            for name in names:
                path = os.path.join(folder, name)
                yield path, _size(path)


def _size(path: str) -> int | str:
    """Bytes of a file, or the kind of what is not one."""
    try:
        state = os.stat(path)
    except PermissionError:
        raise
    except OSError:
        return "dead link"
    return state.st_size if stat.S_ISREG(state.st_mode) else "neither file nor folder"


def _raise(error: OSError) -> None:
    raise error
