"""Which classifier fits images of a side, where a configuration leaves that to the rule (``arch: auto``).

The rule's answer is written out where a study is composed: what travels, what names stages and runs, and what a site
holds to its bounds is the network's own name, and a study that still says ``auto`` is refused.
"""

from __future__ import annotations

import dataclasses

from fedkr.config.schema import Study
from fedkr.errors import UserError

AUTO = "auto"
# A position of resnet14's last stage sees 53x53 pixels, nearly all of an image below this side. From here on ResNet-18
# halves the image twice before its first block and sees all of it, for 1.4 times the operations of resnet14; below,
# where it halves nothing first, it takes twenty times as many.
LARGE_FROM = 64
SMALL, LARGE = "resnet14", "resnet18"


def classifier_for(side: int) -> str:
    """Return the name of the classifier for images of ``side`` pixels."""
    return LARGE if side >= LARGE_FROM else SMALL


def left_to_side(study: Study) -> bool:
    """Whether a composed study leaves a classifier to the rule."""
    return AUTO in (study.teacher.arch, study.student.arch)


def check_classifiers(study: Study) -> None:
    """Raise :class:`UserError` for a study that leaves a classifier to the rule still."""
    for name, config in (("teacher", study.teacher), ("student", study.student)):
        if config.arch == AUTO:
            raise UserError(
                f"{name}.arch={AUTO!r}: a rule for who composes a study, which writes its answer out; name a "
                f"classifier, as in {name}.arch={SMALL}"
            )


def with_classifiers(study: Study, side: int) -> Study:
    """Return a composed study with the rule's classifier, for images of ``side`` pixels, where it leaves that to it."""

    def arch(named: str) -> str:
        return classifier_for(side) if named == AUTO else named

    teacher = dataclasses.replace(study.teacher, arch=arch(study.teacher.arch))
    student = dataclasses.replace(study.student, arch=arch(study.student.arch))
    return dataclasses.replace(study, teacher=teacher, student=student)
