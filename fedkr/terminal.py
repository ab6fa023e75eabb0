"""What is printed arrives on any terminal: a letter that its encoding lacks is spelled, not an error."""

from __future__ import annotations

import codecs
import io
import sys

SPELLED = str.maketrans(
    {"─": "-", "━": "-", "│": "|", "├": "|", "└": "`", "╭": "+", "╮": "+", "╰": "+", "╯": "+", "•": "*"}
    | {"…": "...", "±": "+-", "×": "x", "–": "-", "—": "-", "’": "'", "“": '"', "”": '"', "≤": "<=", "≥": ">="}
)
HANDLER = "fedkr-spelled"


def print_anywhere() -> None:
    """Have stdout and stderr take any text: ASCII terminals, and file names that are no text in any encoding."""
    codecs.register_error(HANDLER, _spell)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=HANDLER)


def _spell(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(SPELLED)
    # What the table does not spell, among it halves of surrogate pairs.
    return text.encode("ascii", "backslashreplace").decode("ascii"), error.end
