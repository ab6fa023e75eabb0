"""The documents that travel: each field of a known shape and a bounded length, at both ends.

A card, a manifest and a choice leave a site; an offer of other sites' releases comes to it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from fedkr.errors import UserError
from fedkr.strict_json import (
    LARGEST_NUMBER,
    Count,
    Flag,
    ImageCount,
    Positive,
    Rate,
    Strict,
    check_strict,
    list_of,
    object_of,
    one_of,
)

LONGEST_TEXT = 120
LONGEST_LIST = 128
MOST_CLASSES = 1000
LARGEST_SIDE = 4096
MOST_STEPS = 10**9
# Of other sites, and of the sets of images that they release, one a regeneration round.
MOST_SITES, MOST_SETS = 10_000, 100_000
# How a site chose among other sites' releases; the last chooses nothing.
VAL, FOLDED, TOO_FEW = CHOSEN_BY = ("val", "cross-validation", "too few images")


def is_number(value: Any) -> bool:
    """Whether ``value`` is one number of ordinary size; NaN and infinity are."""
    if isinstance(value, bool):
        return False
    return isinstance(value, float) or (isinstance(value, int) and abs(value) <= LARGEST_NUMBER)


def is_confusion(values: Any) -> bool:
    """Whether ``values`` is a flat square matrix of counts."""
    counts = isinstance(values, list) and all(isinstance(v, int) and is_number(v) and v >= 0 for v in values)
    return counts and math.isqrt(len(values)) ** 2 == len(values)


def _number(value: Any) -> Any:
    # Of a NaN, both comparisons are false.
    if not is_number(value) or not -LARGEST_NUMBER <= value <= LARGEST_NUMBER:
        raise ValueError("expected a number of ordinary size")
    return value


def _rate(value: Any) -> Any:
    if not 0 <= _number(value) <= 1:
        raise ValueError("expected a number from 0 to 1")
    return value


def _printable(text: str) -> str:
    # It goes to terminals, logs and pages, where control characters are commands.
    if not text.isprintable():
        raise ValueError("holds a character that cannot be printed")
    return text


Text = Annotated[str, Field(max_length=LONGEST_TEXT), AfterValidator(_printable)]
Number = Annotated[Any, AfterValidator(_number)]
Score = Annotated[Any, AfterValidator(_rate)]
Step = Annotated[int, Field(ge=0, le=MOST_STEPS)]
Knobs = Annotated[dict[Text, Number], Field(max_length=LONGEST_LIST)]
Names = list_of(Text, MOST_CLASSES)
_Counts: Any = dict[one_of("train", "val", "test", "holdout"), list_of(ImageCount, MOST_CLASSES)]  # type: ignore[misc]
_OF_SCORE = {"loss": Number, "leakage": Score}
_TRIED = {
    "checkpoints": list_of(object_of("checkpoint", {"step": Step, "score": Score}, _OF_SCORE), LONGEST_LIST),
    "tuning": list_of(object_of("trial", {"knobs": Knobs, "score": Score}, _OF_SCORE), LONGEST_LIST),
}
DOCUMENTS: dict[str, type[Strict]] = {
    "manifest": object_of(
        "manifest",
        {},
        {
            "site": Text,
            "round": Count,
            "slices": Count,
            "count": Count,
            "left_out": Names,
            "knobs": Knobs,
            "checkpoint": Step,
            "scores": object_of("scores", {}, _TRIED),
            "recalls": list_of(Rate | None, MOST_CLASSES),
            "by_val": Flag,
            "quality": object_of(
                "quality",
                {"recognised": list_of(Rate | None, MOST_CLASSES)},
                {
                    "frechet": Number,
                    "precision": Rate,
                    "recall": Rate,
                    "real": object_of("real", {"score": Score, "less": Number, "clear": Flag}),
                },
            ),
            "teacher": object_of("teacher", {}, {"step": Step, "val_accuracy": Score}),
            # What holds for all that the release has of one unit's images.
            "privacy": object_of(
                "privacy",
                {"epsilon": Number, "delta": Score, "unit": one_of("patient", "image"), "mechanism": Text},
            ),
        },
    ),
    "card": object_of(
        "card",
        {},
        {
            "site": Text,
            "version": Text,
            "classes": list_of(Text, MOST_CLASSES, 1),
            "size": Annotated[int, Field(ge=1, le=LARGEST_SIDE)],
            "channels": Literal[1, 3],
            "counts": _Counts,
            "allow": list_of(Text, LONGEST_LIST),
            "recipients": Text,
            "threads": Count,
            "data": Annotated[str, Field(pattern="^[0-9a-f]{64}$")],
        },
    ),
    # What the sets of a message are, in their order: one site's come one after the other.
    "offer": object_of("offer", {"sets": list_of(object_of("set", {"site": Text, "size": Positive}), MOST_SETS)}),
    "choice": object_of(
        "choice",
        {"how": one_of(*CHOSEN_BY)},
        {
            "judged": Count,
            "own": Rate,
            "candidates": list_of(object_of("candidate", {"site": Text, "alone": Rate, "chosen": Flag}), MOST_SITES),
        },
    ),
}


def check_document(name: str, values: Any) -> None:
    """Raise :class:`UserError` unless a document of this name has no fields but its own, each in shape.

    The classes of a card differ from each other, and its counts are one a class.
    """
    try:
        check_strict(DOCUMENTS[name], values)
    except UserError as error:
        raise UserError(f"{name}: field {error}") from None
    classes = values.get("classes", [])
    if len(set(classes)) < len(classes):
        raise UserError(f"{name}: two classes have one name")
    for split, counts in values.get("counts", {}).items():
        if len(counts) != len(classes):
            raise UserError(f"{name}: {len(counts)} counts of {split} for {len(classes)} classes; one a class")


def check_choice(offered: Sequence[str], values: Any) -> None:
    """Raise :class:`UserError` unless a choice is one among the releases of the sites ``offered``, in their order."""
    check_document("choice", values)
    told = values.keys() & {"judged", "own", "candidates"}
    if told and (len(told) < 3 or not values["judged"] or values["how"] == TOO_FEW):
        raise UserError("choice: judged, own and candidates stand together, where images were judged")
    if "candidates" in told and [row["site"] for row in values["candidates"]] != list(offered):
        raise UserError("choice: its candidates are not the sites whose releases were offered")
