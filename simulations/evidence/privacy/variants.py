"""Variants by name: ``default``, or knobs joined by ``+``, as in ``augment0.12+steps1.5+hard``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedkr.config import nearest
from fedkr.errors import UserError
from fedkr.generators.moments import Options

DEFAULT = "default"
# The option that a knob sets to its number.
SETS = {
    "augment": "generator.options.augment",
    "width": "generator.options.width",
    "ema": "generator.options.ema",
    "power": "generator.options.class_power",
    "churn": "generator.options.churn",
    "guidance": "generator.options.guidance",
    "slices": "recycle.rounds",
    "temperature": "recycle.temperature",
    "ratio": "recycle.ratio",
    "doubt": "recycle.doubt",
    "filter": "recycle.filter",
    "views": "recycle.views",
    "mixup": "teacher.mixup",
    "smoothing": "teacher.label_smoothing",
    "adjustment": "student.logit_adjustment",
    "studentmixup": "student.mixup",
}
# The option that a knob multiplies by its number.
TIMES = {"steps": "generator.steps", "teacher": "teacher.steps", "student": "student.steps"}
# A generator without training, of the mechanism that ``privacy.mode=dp`` has, which ``dp`` asks for with its epsilon.
GUARANTEED = "dp"
OF_MOMENTS: Mapping[str, Any] = {"generator.kind": "moments", "generator.options": {}, "recycle.views": 1}
OF_GUARANTEED: Mapping[str, Any] = {"privacy.mode": "dp", "student.components": Options().components}
# What a knob without a number sets.
WORDS: Mapping[str, Mapping[str, Any]] = {"moments": OF_MOMENTS, "scaled": {"generator.options.scale_shift": True}}
# How many classes of a soft label keep their mass: what a site's policy calls ``label_classes``.
TOP, HARD = "top", "hard"
WHOLE = ("width", "slices", "views", "top")
USUAL = (
    *(DEFAULT, "augment0.06", "augment0.12", "augment0.2", "augment0.12+steps1.5", "augment0.12+steps2"),
    *("steps0.5", "slices1", "slices2", "hard", "top2", "temperature2", "ratio0.5", "width16"),
    *("augment0.12+hard", "augment0.12+slices1", "augment0.12+steps2+hard", "augment0.12+steps2+slices2"),
)


@dataclass(frozen=True)
class Variant:
    """One way to make a release.

    Attributes:
        name: as it was asked for.
        sets: values of options of the study, by their dotted names.
        times: what the study's own values are multiplied by, likewise.
        classes: how many classes of a soft label keep their mass, 0 for all; 1 is a hard label.
    """

    name: str
    sets: Mapping[str, Any]
    times: Mapping[str, float]
    classes: int = 0


def read_variant(name: str) -> Variant:
    """Return the variant of a name; raise :class:`UserError` for an unknown knob or a number that is none."""
    sets, times, classes = dict[str, Any](), dict[str, float](), 0
    for part in [] if name == DEFAULT else name.split("+"):
        knob, number = _parts(part, name)
        if knob in SETS:
            sets[SETS[knob]] = number
        elif knob in WORDS:
            sets |= WORDS[knob]
        elif knob == GUARANTEED:
            sets |= {**OF_MOMENTS, **OF_GUARANTEED, "privacy.epsilon": number}
        elif knob in TIMES:
            times[TIMES[knob]] = float(number)
        else:
            classes = int(number)
    return Variant(name, sets, times, classes)


def _parts(part: str, name: str) -> tuple[str, float]:
    known = {*SETS, *TIMES, TOP, GUARANTEED}
    alone: dict[str, tuple[str, float]] = {HARD: (TOP, 1), **{word: (word, 0) for word in WORDS}}
    if part in alone:
        return alone[part]
    found = re.fullmatch(r"([a-z]+)([0-9.]+)", part)
    if found is None or found[1] not in known:
        raise UserError(f"variants={name}: {part!r} is no knob with its number{nearest(part, {*known, *alone})}")
    try:
        return found[1], int(found[2]) if found[1] in WHOLE else float(found[2])
    except ValueError:
        whole = "a whole number" if found[1] in WHOLE else "a number"
        raise UserError(f"variants={name}: {found[2]!r} is not {whole}, which {found[1]} takes") from None
