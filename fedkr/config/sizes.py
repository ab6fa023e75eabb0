"""The size of a study, which comes from another machine: its texts, lists and numbers are bounded everywhere."""

from __future__ import annotations

import math
from typing import Any

from fedkr.config.reading import LARGEST_INT, brief
from fedkr.errors import UserError

LONGEST_STUDY = 1_000_000
LONGEST_TEXT = 4096
LONGEST_LIST = 1000
DEEPEST = 8
# Beyond it, float32 holds hardly any number.
LARGEST_FLOAT = 1e38


def check_sizes(value: Any, where: str = "", depth: int = 0) -> None:
    """Raise :class:`UserError` for the first plain value that is not finite, of a kind JSON lacks, or too large.

    ``where`` is the dotted path of ``value``, and ``depth`` how many groups and lists it is in.
    """
    if isinstance(value, (dict, list)):
        _check_group(value, where, depth)
    elif isinstance(value, str):
        _check_text(value, where)
    elif isinstance(value, (int, float)):
        most = LARGEST_FLOAT if isinstance(value, float) else LARGEST_INT
        if abs(value) > most or not math.isfinite(value):
            raise UserError(f"{where}={brief(value)}: must be finite and at most {most:g}")
    elif value is not None:
        raise UserError(f"{where}: expected text, a number, a list or a group, got {type(value).__name__}")


def _check_group(value: dict[Any, Any] | list[Any], where: str, depth: int) -> None:
    if len(value) > LONGEST_LIST:
        raise UserError(f"{where}: {len(value)} items; {LONGEST_LIST} at most")
    if depth > DEEPEST:
        raise UserError(f"{where}: groups and lists in one another more than {DEEPEST} deep")
    for name, item in value.items() if isinstance(value, dict) else enumerate(value):
        _check_text(str(name), where)
        place = f"{where}.{name}" if isinstance(value, dict) else f"{where}[{name}]"
        check_sizes(item, brief(place.removeprefix(".")), depth + 1)


def _check_text(text: str, where: str) -> None:
    if len(text) > LONGEST_TEXT:
        raise UserError(f"{where}: a text of {len(text)} characters; {LONGEST_TEXT} at most")
    # Control characters would reach terminals and logs; half of a surrogate pair cannot be written to a file.
    if not text.isprintable():
        raise UserError(f"{where}={brief(text)}: holds a character that cannot be printed")
