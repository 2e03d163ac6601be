"""Reversible detokenizers: a benchmark's published text as a person would have written it.

WikiText and Penn Treebank put spaces around punctuation, which GPT-2 never saw. The text without them has the published
text's likelihood only if nothing is lost. So each detokenizer is a pair of functions of a line; a line that the pair
does not restore byte for byte is kept as published, after a U+2060 (word joiner).

Whether a space is removed depends only on the characters next to it and the quotation marks before it in the line,
which are the same with and without that space. U+2060 marks such a place if the published text has no space there.
"""

import re
from collections.abc import Callable

from pipeline.errors import UserError, nearest

MARK = "\u2060"
CLITIC = re.compile(r"'(?:s|re|ve|ll|d|m|t)(?![A-Za-z])")  # WikiText cuts "don 't"
PENN_CLITIC = re.compile(r"(?:'(?:s|re|ve|ll|d|m)|n't)(?![A-Za-z])")
INSIDE = re.compile(r"(?<=\w) @(-)@ (?=\w)|(?<=\d) @([,.])@ (?=\d)")
ONE_WORD = re.compile(r"(?<=\w)-(?=\w)|(?<=\d)[,.](?=\d)")
LINE = re.compile(r"[^\n]*\n|[^\n]+")
BEFORE, AFTER = frozenset(".,;:!?)]%"), frozenset("([$£€")
Joins = Callable[[str, str, bool], bool]


def detokenize(name: str, text: str) -> str:
    """Returns ``text`` without the spaces that its publishers added; UserError for an unknown ``name``."""
    join = _detokenizer(name)
    return "".join(_line(line, join) for line in LINE.findall(text)) if join else text


def retokenize(name: str, text: str) -> str:
    """Undoes ``detokenize``: returns the published text byte for byte."""
    join = _detokenizer(name)
    return "".join(_published(line, join) for line in LINE.findall(text)) if join else text


def _detokenizer(name: str) -> Joins | None:
    if name not in DETOKENIZERS:
        names = ", ".join(DETOKENIZERS)
        raise UserError(f"--detokenizer={name}: expected one of {names}{nearest(name, DETOKENIZERS)}")
    return DETOKENIZERS[name]


def _wikitext(left: str, rest: str, quoted: bool) -> bool:
    if left == '"':  # it opens a quotation if ``quoted``, else closes one
        return quoted
    if rest[0] == '"':
        return quoted
    if (rest[0] == "." and left.isupper()) or (rest[0] in ".,:" and left.isdigit() and rest[1:2].isdigit()):
        return False  # initials and numbers, which the publishers did not split
    return rest[0] in BEFORE or left in AFTER or (left.isalnum() and CLITIC.match(rest) is not None)


def _penn_treebank(left: str, rest: str, quoted: bool) -> bool:
    return rest[0] == "." or left == "$" or (left.isalnum() and PENN_CLITIC.match(rest) is not None)


DETOKENIZERS: dict[str, Joins | None] = {"wikitext": _wikitext, "ptb": _penn_treebank, "none": None}


def _line(line: str, joins: Joins) -> str:
    body = line.removesuffix("\n")
    plain = _joined(INSIDE.sub(lambda match: match[1] or match[2], body.strip(" ")), joins) + line[len(body) :]
    return plain if plain and plain[0] != MARK and _published(plain, joins) == line else MARK + line


def _published(line: str, joins: Joins) -> str:
    if line.startswith(MARK):
        return line[1:]
    body = line.removesuffix("\n")
    words = ONE_WORD.sub(r" @\g<0>@ ", _parted(body, joins))
    return (f" {words} " if words else " ") + line[len(body) :]


def _joined(text: str, joins: Joins) -> str:
    """Removes the spaces where ``joins`` is true; adds a mark where it is true and there was no space."""
    characters, quoted, left = [], False, ""
    for place, character in enumerate(text):
        single = character == " " and left not in ("", " ") and text[place + 1 : place + 2] not in ("", " ")
        if single and joins(left, text[place + 1 : place + 8], quoted):
            continue
        if left not in ("", " ") and character != " " and text[place - 1] != " ":
            characters.append(MARK if joins(left, text[place : place + 7], quoted) else "")
        characters.append(character)
        quoted ^= character == '"'
        left = character
    return "".join(characters)


def _parted(text: str, joins: Joins) -> str:
    """Undoes ``_joined``."""
    characters, quoted, left, marked = [], False, "", False
    for place, character in enumerate(text):
        if character == MARK:
            marked = True
            continue
        if left not in ("", " ") and character != " " and not marked and joins(left, text[place : place + 7], quoted):
            characters.append(" ")
        characters.append(character)
        quoted ^= character == '"'
        left, marked = character, False
    return "".join(characters)
