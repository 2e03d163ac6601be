"""A terminal of so many columns: a command is run in it, and what it leaves on the screen and above is read."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Sequence
from typing import Any


def run(command: Sequence[str], columns: int, **options: Any) -> tuple[int, str]:
    """Runs a command on a pseudo-terminal; returns its exit code and all that it wrote there."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    process = subprocess.Popen(command, env=environment, **streams | options)
    os.close(theirs)
    written = b""
    try:
        while data := os.read(ours, 1 << 16):
            written += data
    except OSError:  # Linux's answer when the last process that has the terminal open is gone
        pass
    finally:
        os.close(ours)
    return process.wait(), written.decode()


def lines(written: str, columns: int) -> list[str]:
    """Returns the lines that stay, as a terminal shows them: wrapped, overwritten, cleared from the cursor on."""
    shown, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[[\d;?]*[A-Za-z]|.", written, re.DOTALL):
        if part == "\r":
            column = 0
        elif part == "\n":
            row += 1
        elif part == "\x1b[K":
            shown[row] = shown[row][:column]
        else:
            assert part.isprintable(), f"this terminal knows no {part!r}"
            if column == columns:
                row, column = row + 1, 0
            shown += [""] * (row + 1 - len(shown))
            shown[row] = shown[row].ljust(column)[:column] + part + shown[row][column + 1 :]
            column += 1
        shown += [""] * (row + 1 - len(shown))
    return [line.rstrip() for line in shown]
