"""How text is read, wherever it comes from: UTF-8, perhaps behind a byte order mark; lines end at \\n or \\r\\n.

Python's own ways differ among themselves: ``str.splitlines`` also ends a line at U+2028 or a form feed, files that are
opened as text at a lone \\r too, and "utf-8" keeps the mark as a character. Light: no imports.
"""

from typing import AnyStr

MARK = "\ufeff"  # U+FEFF, which editors put before a file's text


def decode(raw: bytes | bytearray | memoryview) -> str:
    """Returns UTF-8 bytes as text, without a byte order mark before it.

    Raises:
        UnicodeDecodeError: they are not UTF-8.
    """
    return str(raw, "utf-8").removeprefix(MARK)


def without_mark(raw: bytes) -> bytes:
    """Returns a file's bytes without a byte order mark before them."""
    return raw.removeprefix(MARK.encode())


def lines(text: str) -> list[str]:
    """Returns the lines of a text without their ends."""
    found = text.replace("\r\n", "\n").split("\n")
    return found if found[-1] else found[:-1]


def without_end(line: AnyStr) -> AnyStr:
    """Returns a line, of characters or bytes, without its end."""
    if isinstance(line, bytes):
        return line.removesuffix(b"\r\n") if line.endswith(b"\r\n") else line.removesuffix(b"\n")
    return line.removesuffix("\r\n") if line.endswith("\r\n") else line.removesuffix("\n")


def printable(text: str, longest: int = 300) -> str:
    """Returns a text, such as a path, as one line that UTF-8 can write: other bytes of a name become \\udcXX."""
    line = " ".join(text.encode("utf-8", "backslashreplace").decode().split())
    return line if len(line) <= longest else line[:longest] + "…"
