r"""stdout and stderr whose failure costs no work: the reader is gone, the disk full, the terminal closed or ASCII only.

On a terminal, what is printed while a line of progress is shown begins on a line of its own.

What cannot be written is dropped, the first time with a note on stderr; ``lost`` says so at the end. A character that
the encoding lacks is written as JSON and Python write it, ``\u00d7``, so that figures stay JSON.
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
CLEAR = "\r\x1b[K"  # how a line that replaces the one before begins


def _escape(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


codecs.register_error(ESCAPE, _escape)


class _UnfailingFile(io.FileIO):
    """A descriptor whose writes always succeed; ``failure`` is the first one that did not."""

    failure: OSError | None = None
    line_is_open: ClassVar[bool] = False  # of the terminal, which stdout and stderr share

    def write(self, data: Any) -> int:
        try:
            if self.isatty():
                self._end_line(bytes(data))
            while (written := super().write(data)) is None:  # set to non-blocking by whoever shares it, and full
                select.select([], [self], [])
            return written
        except OSError as error:  # tried again at the next write: a full disk may get room
            if self.failure is None:
                self.failure = error
                if self.fileno() == 1:
                    print(f"stdout: {error.strerror}; the work continues without it", file=sys.stderr)
            return len(data)

    def _end_line(self, data: bytes) -> None:
        """Ends a line of progress that ``data`` does not replace or end; notes whether it leaves one open."""
        replaces = data.startswith(CLEAR.encode())
        if _UnfailingFile.line_is_open and not replaces and not data.startswith(b"\n"):
            super().write(b"\n")
        _UnfailingFile.line_is_open = replaces and data != CLEAR.encode() and not data.endswith(b"\n")


def protect() -> None:
    """Replaces ``sys.stdout`` and ``sys.stderr`` by such streams, and closed ones by /dev/null.

    A closed descriptor's number would go to the next file that is opened, and what C++ libraries log there into it.
    """
    logging.raiseExceptions = False  # or a library that logs to a full disk prints a page beside the one line
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            stream = open(os.devnull, mode, encoding="utf-8")  # noqa: SIM115  # takes the lowest number that is free
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)
        elif mode == "w":
            stream.flush()
            raw = _UnfailingFile(stream.fileno(), "w", closefd=False)
            protected = io.TextIOWrapper(io.BufferedWriter(raw), stream.encoding, errors=ESCAPE, line_buffering=True)
            setattr(sys, name, protected)


def lost() -> bool:
    """Whether something that was printed on stdout did not get there."""
    sys.stdout.flush()
    raw = getattr(sys.stdout.buffer, "raw", None)
    return isinstance(raw, _UnfailingFile) and raw.failure is not None
