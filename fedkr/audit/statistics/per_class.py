"""Which classes an attack sees best: its AUC among the images of one class at a time."""

from __future__ import annotations

import numpy as np

from fedkr.audit.challenge import Challenge
from fedkr.audit.figures import ClassAuc
from fedkr.audit.statistics.membership import Floats, membership_metrics

# With fewer images, or patients, on a side an interval says nothing, and a figure could be about a handful of people.
LEAST_OF_CLASS = 10


def class_aucs(scores: Floats, challenge: Challenge, *, bootstrap: int, seed: int) -> list[ClassAuc | None]:
    """Return, for every class of the study, the AUC of its members against its non-members.

    Args:
        scores: float ``[N]`` of members and then non-members.
        challenge: the site's.
        bootstrap: resamples of each interval (groups are resampled whole).
        seed: of the resamples.

    Returns:
        None for a class with fewer than ten members or ten non-members (with groups: fewer than ten groups).
    """
    split = len(challenge.members)
    return [
        _class_auc(scores[:split], scores[split:], challenge, label, bootstrap, seed)
        for label in range(len(challenge.members.classes))
    ]


def _class_auc(
    members: Floats, nonmembers: Floats, challenge: Challenge, label: int, bootstrap: int, seed: int
) -> ClassAuc | None:
    chosen = challenge.members.labels == label, challenge.nonmembers.labels == label
    groups = [
        None if side.groups is None else side.groups[mask]
        for side, mask in zip((challenge.members, challenge.nonmembers), chosen, strict=True)
    ]
    units = [int(mask.sum()) if own is None else len(np.unique(own)) for mask, own in zip(chosen, groups, strict=True)]
    if min(units) < LEAST_OF_CLASS:
        return None
    figures = membership_metrics(
        members[chosen[0]],
        nonmembers[chosen[1]],
        fprs=[],
        bootstrap=bootstrap,
        seed=seed,
        member_groups=groups[0],
        nonmember_groups=groups[1],
    )
    return ClassAuc(figures.auc, figures.auc_low, figures.auc_high)
