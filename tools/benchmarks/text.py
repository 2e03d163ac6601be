"""Text for the benchmarks: gathered from this machine's files, and repeated with changes up to any size."""

import os
import pathlib
import random
import sysconfig
from collections.abc import Iterator

from pipeline import texts

ENDINGS = (".py", ".pyi", ".txt", ".md", ".rst", ".html", ".pm", ".pod", ".h", ".c")
DOCUMENT_CHARACTERS = 6_000  # longer files are truncated: OpenWebText's documents have 5,000 bytes on average
LEAST_BYTES = 60_000_000


def gather(most_bytes: int) -> tuple[list[str], int]:
    """Returns documents of this machine's Python packages, headers and documentation, and their total bytes.

    No file is used twice.

    Raises:
        RuntimeError: there are fewer than LEAST_BYTES.
    """
    paths = sysconfig.get_paths()
    roots = sorted({paths["purelib"], paths["stdlib"], "/usr/share/doc", "/usr/share/perl", "/usr/include"})
    files = [
        os.path.join(folder, name)
        for root in roots
        for folder, _, names in os.walk(root)
        for name in sorted(names)
        if name.endswith(ENDINGS)
    ]
    random.Random(0).shuffle(files)
    documents: list[str] = []
    total = 0
    seen: set[int] = set()
    for file in files:
        try:
            text = texts.decode(pathlib.Path(file).read_bytes())
        except (OSError, UnicodeDecodeError):
            continue
        if len(text) < 200 or "\0" in text or hash(text) in seen:
            continue
        seen.add(hash(text))
        for start in range(0, len(text), DOCUMENT_CHARACTERS):
            document = text[start : start + DOCUMENT_CHARACTERS]
            if not document.isspace():  # a corpus reader would drop it
                documents.append(document.removeprefix(texts.MARK))
                total += len(documents[-1].encode())
        if total >= most_bytes:
            break
    if total < LEAST_BYTES:
        raise RuntimeError(f"only {total} bytes of text are on this machine, and {LEAST_BYTES} are needed")
    return documents, total


def varied(documents: list[str], total_bytes: int) -> Iterator[str]:
    """Yields the documents, then copies with reordered lines and different digits."""
    dice = random.Random(1)
    written = copy = 0
    while True:
        digits = str.maketrans("0123456789", "".join(dice.sample("0123456789", 10)))
        for document in documents:
            if copy:
                lines = document.translate(digits).split("\n")
                dice.shuffle(lines)
                document = "\n".join(lines)
            yield document
            written += len(document.encode())
            if written >= total_bytes:
                return
        copy += 1
