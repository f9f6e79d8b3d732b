"""Text of others, such as names of files and what files say about themselves, made fit for what shows it.

Letters of all scripts stay as they are. What steers a terminal, a spreadsheet or a page becomes something to be seen.
"""

from __future__ import annotations

import re

_ENDS_A_LINE = re.compile("\r\n|[\t-\r\x1c-\x1e\x85\u2028\u2029]")
_STEERS = re.compile("[\x00-\x08\x0e-\x1b\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""What is left of the control characters of ASCII and of ISO 8859, and those that turn the direction of writing."""

_FORMULA = ("=", "+", "-", "@")
"""How cells begin that spreadsheets compute."""

_MARKUP = re.compile(r"[\\`*|]|\](?=[(\[:])")
"""Emphasis, code, cells, and where a pair of brackets becomes a link."""


def one_line(text: str) -> str:
    """A text on one line of a terminal, which nothing in it can leave or recolour.

    Line ends and tabs become spaces, other control characters what Python writes for them, as ``\\x1b``; a byte of a
    file's name that is no UTF-8 becomes a question mark.
    """
    text = _ENDS_A_LINE.sub(" ", text.encode("utf-8", "replace").decode("utf-8"))
    return _STEERS.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def csv_cell(text: str) -> str:
    """A text for a table that a spreadsheet may open: what would be a formula there gets an apostrophe before it."""
    text = one_line(text)
    return f"'{text}" if text.lstrip().startswith(_FORMULA) else text


def markdown(text: str) -> str:
    """A text for Markdown, in a table or out of it, that shows as it is and is no markup."""
    text = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKUP.sub(r"\\\g<0>", text)


def markdown_code(text: str) -> str:
    """The same as code, between as many backticks as it takes."""
    text = one_line(text)
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    space = " " * (len(fence) > 1)
    return f"{fence}{space}{text}{space}{fence}".replace("|", r"\|")
