"""Listing a source: a file, a directory or a glob; local or gs://. A name that exists is never a pattern.

Follows linked folders. Reads each folder once, under its own path if that is in the source, so that neither a loop nor
a second link gives a document twice.
"""

import fnmatch
import itertools
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from pipeline import storage
from pipeline.data.corpora.sources import COMPRESSED
from pipeline.errors import UserError
from pipeline.texts import printable

TEMPORARY = ("~", ".tmp", ".temp", ".swp", ".part", ".partial", ".crdownload")
READ_ALREADY = "linked folder that is read already"


class File(NamedTuple):
    """A file of the source: ``name`` is its path inside the source, so that moving a source changes no id."""

    path: str
    name: str
    size: int


class Listing(NamedTuple):
    """The files of a source, sorted by name, and notes on what was skipped."""

    files: list[File]
    notes: tuple[str, ...]


def note_of(passed_over: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """One note for the manifest and the terminal on skipped files, given as (kind, name), or none."""
    groups = itertools.groupby(sorted(passed_over), key=lambda file: file[0])
    names = {kind: [name for _, name in group] for kind, group in groups}
    kinds = [f"{len(of_kind):,} {kind} ({printable(of_kind[0])})" for kind, of_kind in names.items()]
    return (f"passed over, by kind with the first of each: {', '.join(kinds)}",) if kinds else ()


def kind_passed_over(name: str) -> str:
    """The kind of a file, folder or archive member that is not meant as text, or an empty string."""
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    if "__MACOSX" in parts or any(part.startswith("._") for part in parts):
        return "resource fork"
    if any(part.startswith(".") for part in parts):
        return "hidden"
    last = parts[-1] if parts else ""
    if "_temporary" in parts or last.endswith(TEMPORARY) or last.startswith("~$") or last[:1] == last[-1:] == "#":
        return "temporary"
    return ""


def find(source: str | None, endings: Sequence[str], corpus: str) -> Listing:
    """Lists the files of a source.

    Args:
        source: a file, a directory (searched with its folders for names with ``endings``), or a glob.
        endings: '.txt', for example, in either case; a compression suffix may follow.
        corpus: named in errors.

    Raises:
        UserError: the source is missing, cannot be read, or holds nothing.
    """
    if not source:
        raise UserError(f"corpus {corpus!r} needs --source: a file, a directory or a glob, local or gs://")
    try:
        files, notes = _find(source, endings)
    except PermissionError as error:
        place = f"{error.filename}: " if error.filename not in (None, source) else ""
        raise UserError(f"--source={source} cannot be read: {place}{error.strerror or error}") from error
    if not files:
        also = f" ({notes[0]})" if notes else ""
        raise UserError(f"--source={source} holds no file named *{', *'.join(endings)} for corpus {corpus!r}{also}")
    if not sum(file.size for file in files):
        raise UserError(f"--source={source} is empty: {len(files)} files of 0 bytes")
    return Listing(files, notes)


def _find(source: str, endings: Sequence[str]) -> Listing:
    size = storage.size(source) if not source.endswith("/") else None
    if size is not None:
        if not storage.is_remote(source) and not os.access(source, os.R_OK):
            raise PermissionError(13, "permission denied")
        return Listing([File(source, source.rpartition("/")[2], size)], ())
    root, pattern, listed = _rooted(source)
    root = root.rstrip("/") + "/"
    wanted = tuple(ending + compressed for ending in endings for compressed in ("", *COMPRESSED))
    files, passed_over = [], []
    for path, size_or_kind in listed:
        name = path.removeprefix(root)
        if pattern and not fnmatch.fnmatchcase(name, pattern):
            continue
        kind = kind_passed_over(name) if isinstance(size_or_kind, int) else size_or_kind
        if kind and not (kind == "temporary" and pattern.endswith(TEMPORARY)):
            passed_over.append((kind, name))
        elif isinstance(size_or_kind, int) and (pattern or name.lower().endswith(wanted)):
            files.append(File(path, name, size_or_kind))
    return Listing(sorted(files, key=lambda file: file.name), note_of(passed_over))


def _rooted(source: str) -> tuple[str, str, Iterable[tuple[str, int | str]]]:
    """The longest prefix of a source that is a directory, the rest as a pattern, and what is below."""
    head, pattern = source.rstrip("/") or "/", ""
    while (listed := _list(head)) is None:
        if not re.search(r"[*?\[]", head):
            what = "is neither a file nor a directory" if os.path.exists(head) else "does not exist"
            raise UserError(f"--source={source} {what}")
        head, slash, last = head.rpartition("/")
        head, pattern = head.rstrip("/") or slash or ".", f"{last}/{pattern}" if pattern else last
    return head, pattern, listed


def _list(directory: str) -> Iterable[tuple[str, int | str]] | None:
    """Lists (path, bytes, or the kind of a non-file) below a directory; None if there is no directory."""
    if storage.is_remote(directory):
        return storage.list_files(directory)
    state = _stat(directory)
    return _walk(directory) if state and stat.S_ISDIR(state.st_mode) else None


def _stat(path: str) -> os.stat_result | None:
    """What is at a path, or None if nothing is."""
    try:
        return os.stat(path)
    except PermissionError:
        raise
    except (OSError, ValueError):
        return None


def _walk(root: str) -> Iterator[tuple[str, int | str]]:
    waiting, seen = [root], set()
    while waiting:  # linked folders come last, so that folders with a path in the source keep it
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
                if (found := _stat(path)) is None:
                    yield path, "dead link"
                else:
                    yield path, found.st_size if stat.S_ISREG(found.st_mode) else "neither file nor folder"


def _raise(error: OSError) -> None:
    raise error
