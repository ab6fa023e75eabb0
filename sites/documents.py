"""The two documents that leave a site, field by field: each value has a known shape and a bounded length."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from fedkr import wire
from fedkr.audit.flat import NO_FIGURE
from fedkr.release import MANIFEST_FIELDS

LONGEST_TEXT = 120
LONGEST_LIST = 128
MOST_CLASSES = 1000
# Whole numbers beyond this are not counts, and a long one could spell out an image.
LARGEST_NUMBER = 2**53

Check = Callable[[Any], bool]


def is_count(value: Any) -> bool:
    """Whether ``value`` is a whole number that could be a count."""
    return isinstance(value, int) and is_number(value) and value >= 0


def is_number(value: Any) -> bool:
    """Whether ``value`` is one number of ordinary size; NaN and infinity are."""
    if isinstance(value, bool):
        return False
    return isinstance(value, float) or (isinstance(value, int) and abs(value) <= LARGEST_NUMBER)


def is_rising_rates(longest: int) -> Check:
    """Return the check of a rising list of fractions, as an axis of a ROC curve is, of at most ``longest``."""
    rates = list_of(is_rate, longest)
    return lambda values: rates(values) and values == sorted(values)


def is_class_rates(longest: int) -> Check:
    """Return the check of a list of at most ``longest`` fractions, one a class, or -1 for a class without."""
    return list_of(lambda value: is_rate(value) or value == NO_FIGURE, longest)


def is_rate(value: Any) -> bool:
    """Whether ``value`` is a fraction."""
    return is_number(value) and 0 <= value <= 1


def is_confusion(values: Any) -> bool:
    """Whether ``values`` is a flat square matrix of counts."""
    return isinstance(values, list) and math.isqrt(len(values)) ** 2 == len(values) and all(map(is_count, values))


def is_text(value: Any) -> bool:
    """Whether ``value`` is a short text."""
    return isinstance(value, str) and len(value) <= LONGEST_TEXT


def list_of(check: Check, longest: int = LONGEST_LIST) -> Check:
    """Return the check of a list whose every item passes ``check``."""
    return lambda values: isinstance(values, list) and len(values) <= longest and all(map(check, values))


def table_of(name: Check, check: Check) -> Check:
    """Return the check of an object with free names, each short."""
    return lambda values: (
        isinstance(values, dict)
        and len(values) <= LONGEST_LIST
        and all(name(key) and check(value) for key, value in values.items())
    )


def fields(**checks: Check) -> Check:
    """Return the check of an object that has no fields but these."""
    return lambda values: (
        isinstance(values, dict) and all(key in checks and checks[key](value) for key, value in values.items())
    )


IS_KNOBS = table_of(is_text, is_number)
IS_SCORES = fields(
    checkpoints=list_of(fields(step=is_count, score=is_number, loss=is_number)),
    tuning=list_of(fields(knobs=IS_KNOBS, score=is_number, loss=is_number)),
)
MANIFEST: dict[str, Check] = {
    "site": is_text,
    "round": is_count,
    "slices": is_count,
    "count": is_count,
    "left_out": list_of(is_text, MOST_CLASSES),
    "knobs": IS_KNOBS,
    "checkpoint": is_count,
    "scores": IS_SCORES,
    "recalls": list_of(lambda value: value is None or is_rate(value), MOST_CLASSES),
    "teacher": fields(step=is_count, val_accuracy=is_number),
}
CARD: dict[str, Check] = {
    "site": is_text,
    "version": is_text,
    "classes": list_of(is_text, MOST_CLASSES),
    "size": is_count,
    "channels": is_count,
    "counts": table_of(lambda split: split in ("train", "val", "test", "holdout"), list_of(is_count, MOST_CLASSES)),
    "allow": list_of(is_text),
    "recipients": is_text,
    "threads": is_count,
    "data": lambda value: isinstance(value, str) and re.fullmatch("[0-9a-f]{16}", value) is not None,
}
# A field that the wire or the release gained has no check here yet, so it may not leave.
DOCUMENTS: dict[str, dict[str, Check]] = {
    wire.MANIFEST: {name: check for name, check in MANIFEST.items() if name in MANIFEST_FIELDS},
    wire.CARD: {name: check for name, check in CARD.items() if name in wire.CARD_FIELDS},
}


def misfit(document: str, values: dict[str, Any]) -> str:
    """Return why a document (``manifest`` or ``card``) may not leave, or an empty string."""
    checks = DOCUMENTS[document]
    for name, value in values.items():
        if name not in checks:
            return f"field {name!r} may not leave"
        if not checks[name](value):
            return f"field {name!r} holds something else than its kind of value, or too much of it"
    return ""
