r"""stdout and stderr whose failure costs no work: reader gone, disk full, terminal closed or ASCII only.

On a terminal, output during a progress line begins on a line of its own.

What cannot be written is dropped, the first time with a note on stderr; ``lost`` says so at the end. A character that
the encoding lacks is escaped as in JSON and Python, ``\u00d7``, so that figures stay JSON.
"""

import codecs
import io
import json
import logging
import os
import select
import sys
from typing import Any, ClassVar

ESCAPE = "json_escape"
CLEAR = "\r\x1b[K"  # begins a line that replaces the one before


def _escape(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


codecs.register_error(ESCAPE, _escape)


class _UnfailingFile(io.FileIO):
    """A descriptor whose writes always succeed; ``failure`` is the first error."""

    failure: OSError | None = None
    line_is_open: ClassVar[bool] = False  # of the terminal, which stdout and stderr share

    def write(self, data: Any) -> int:
        try:
            if self.isatty():
                self._end_line(bytes(data))
            while (written := super().write(data)) is None:  # full, and made non-blocking by whoever shares it
                select.select([], [self], [])
            return written
        except OSError as error:  # the next write tries again: a full disk may get room
            if self.failure is None:
                self.failure = error
                if self.fileno() == 1:
                    print(f"stdout: {error.strerror}; the work continues without it", file=sys.stderr)
            return len(data)

    def _end_line(self, data: bytes) -> None:
        """Ends a progress line that ``data`` does not replace or end; records whether it leaves one open."""
        replaces = data.startswith(CLEAR.encode())
        if _UnfailingFile.line_is_open and not replaces and not data.startswith(b"\n"):
            super().write(b"\n")
        _UnfailingFile.line_is_open = replaces and data != CLEAR.encode() and not data.endswith(b"\n")


def protect() -> None:
    """Replaces ``sys.stdout`` and ``sys.stderr`` with such streams, and closed ones with /dev/null.

    Otherwise the next opened file would get a closed descriptor's number, and C++ libraries would log into it.
    """
    logging.raiseExceptions = False  # otherwise a library that logs to a full disk prints a page
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(os.devnull, mode, encoding="utf-8")  # noqa: SIM115  # takes the lowest free number
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)
        elif mode == "w":
            stream.flush()
            raw = _UnfailingFile(stream.fileno(), "w", closefd=False)
            protected = io.TextIOWrapper(io.BufferedWriter(raw), stream.encoding, errors=ESCAPE, line_buffering=True)
            setattr(sys, name, protected)


def lost() -> bool:
    """Whether output to stdout was lost."""
    sys.stdout.flush()
    raw = getattr(sys.stdout.buffer, "raw", None)
    return isinstance(raw, _UnfailingFile) and raw.failure is not None
