"""Reads gin's statements one by one, each with its origin; a mistake is one sentence with its place.

Imports gin but no framework, and leaves gin's global state alone.
"""

import tokenize
from collections.abc import Callable
from typing import Any

from gin import config_parser

from pipeline import texts
from pipeline.errors import UserError


def read(
    text: str,
    source: str,
    handle: Callable[[Any, str], None],
    delegate: config_parser.ParserDelegate,
    *,
    is_file: bool = True,
) -> None:
    """Calls ``handle`` with each statement of a gin text and its origin: the source, and in a file the line.

    Args:
        source: what the text is: a file's name, or a flag.
        delegate: what gin's parser asks about references and macros.

    Raises:
        UserError: the text is not gin, or ``handle`` raised a ValueError.
    """

    def place(line: int | None) -> str:
        return f"{source}:{line}" if is_file and line else source

    try:
        for statement in config_parser.ConfigParser(text, delegate):
            location = getattr(statement, "location", None)
            handle(statement, place(location and location.line_num))
    except tokenize.TokenError as error:  # the text ended inside brackets or quotes
        reason, (line_number, _) = error.args
        where = place(min(line_number, len(texts.lines(text))))
        raise UserError(f"{where}: {reason}; expected name.parameter = value") from None
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # the last two of very many brackets
        reason = str(error).splitlines()[0] if str(error) else "not a gin statement"
        where = place(getattr(error, "lineno", None))
        raise UserError(f"{where}: {reason[:200]}; expected name.parameter = value") from None
