r"""Reads text the same way everywhere: UTF-8, perhaps after a byte order mark; lines end at \n or \r\n.

Python's own functions differ: ``str.splitlines`` also ends a line at U+2028 or a form feed, files opened as text also
end one at a lone \r, and "utf-8" keeps the mark as a character. Imports no library.
"""

from typing import AnyStr

from pipeline.errors import UserError

MARK = "\ufeff"  # U+FEFF, which editors put before a file's text


def decode(raw: bytes | bytearray | memoryview) -> str:
    """Returns UTF-8 bytes as text, without a byte order mark; UnicodeDecodeError if they are not UTF-8."""
    return str(raw, "utf-8").removeprefix(MARK)


def read_file(path: str, flag: str) -> tuple[str, bytes]:
    """Returns a local file as text, with its line ends, and as bytes; UserError names the path's flag."""
    try:
        with open(path, "rb") as file:
            raw = file.read()
        return decode(raw), raw
    except FileNotFoundError:
        raise UserError(f"{flag}={path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{flag}={path}: cannot be read as UTF-8 text ({error})") from None


def without_mark(raw: bytes) -> bytes:
    """Returns a file's bytes without the byte order mark."""
    return raw.removeprefix(MARK.encode())


def lines(text: str) -> list[str]:
    """Returns the lines of a text without their ends."""
    parts = text.replace("\r\n", "\n").split("\n")
    return parts if parts[-1] else parts[:-1]


def without_end(line: AnyStr) -> AnyStr:
    """Returns a line, of characters or bytes, without its end."""
    if isinstance(line, bytes):
        return line.removesuffix(b"\r\n") if line.endswith(b"\r\n") else line.removesuffix(b"\n")
    return line.removesuffix("\r\n") if line.endswith("\r\n") else line.removesuffix("\n")


def printable(text: str, longest: int = 300) -> str:
    r"""Returns a text (a path, for example) as one line that UTF-8 can write; other bytes of a name become \udcXX."""
    line = " ".join(text.encode("utf-8", "backslashreplace").decode().split())
    return line if len(line) <= longest else line[:longest] + "…"
