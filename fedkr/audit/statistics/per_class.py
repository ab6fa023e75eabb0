"""Which classes an attack sees best: its AUC among the images of one class at a time."""

from __future__ import annotations

import numpy as np

from fedkr.audit.statistics.membership import Floats, Groups, Interval, membership_figures
from fedkr.data.images import ImageSet

# With fewer images, or patients, on a side an interval says nothing, and a figure could be about a handful of people.
LEAST_OF_CLASS = 10


def class_aucs(
    scores: Floats, members: ImageSet, nonmembers: ImageSet, *, bootstrap: int, seed: int
) -> list[Interval | None]:
    """Return, for every class of the study, the AUC of a site's members against its non-members, with 95 % interval.

    Scores are float ``[N]`` of members and then non-members; groups are resampled whole. A class with fewer than ten
    members or ten non-members (with groups: fewer than ten groups) has None.
    """
    split = len(members)
    return [
        _class_auc(
            _of_class(scores[:split], members, label), _of_class(scores[split:], nonmembers, label), bootstrap, seed
        )
        for label in range(len(members.classes))
    ]


def _of_class(scores: Floats, images: ImageSet, label: int) -> tuple[Floats, Groups]:
    """Return the scores and groups of the images of one class."""
    chosen = images.labels == label
    return scores[chosen], None if images.groups is None else images.groups[chosen]


def _class_auc(
    members: tuple[Floats, Groups], nonmembers: tuple[Floats, Groups], bootstrap: int, seed: int
) -> Interval | None:
    units = [len(scores) if groups is None else len(np.unique(groups)) for scores, groups in (members, nonmembers)]
    if min(units) < LEAST_OF_CLASS:
        return None
    groups = members[1], nonmembers[1]
    found = membership_figures(members[0], nonmembers[0], fprs=[], bootstrap=bootstrap, seed=seed, groups=groups)
    return found["auc"], found["auc_low"], found["auc_high"]
