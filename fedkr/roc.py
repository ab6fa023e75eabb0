"""The area under the ROC curve, of classifiers and of attacks alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def area_under_roc(positives: NDArray[Any], negatives: NDArray[Any]) -> float:
    """Return the probability that one of ``positives [n]`` is above one of ``negatives [m]``; a tie counts half.

    scikit-learn's ``roc_auc_score`` gives the same (a test compares them), but takes over a second to import, which
    every process of a deployment, one a message, would wait for.
    """
    ordered = np.sort(negatives)
    below, not_above = (np.searchsorted(ordered, positives, side) for side in ("left", "right"))
    return float((below + not_above).sum() / (2 * len(positives) * len(negatives)))


class RocCounts:
    """Both sides of a ROC, members and others say, sorted once: any reweighting gives its ROC by cumulative sums."""

    def __init__(self, member_scores: Floats, nonmember_scores: Floats) -> None:
        self.member_order = np.argsort(member_scores, kind="stable")
        self.nonmember_order = np.argsort(nonmember_scores, kind="stable")
        members, nonmembers = member_scores[self.member_order], nonmember_scores[self.nonmember_order]
        self.below = np.searchsorted(nonmembers, members, side="left")
        self.not_above = np.searchsorted(nonmembers, members, side="right")
        # Candidate thresholds are the non-members' scores; "positive" is strictly above, so ties never count as hits.
        self.nonmembers_up_to = np.searchsorted(nonmembers, nonmembers, side="right")
        self.members_up_to = np.searchsorted(members, nonmembers, side="right")

    def auc(self, member_weights: Floats, nonmember_weights: Floats) -> Floats:
        """Return ``[B]`` AUCs (Mann-Whitney, ties count half) for weights ``[B, n]`` in the scores' own order."""
        members = member_weights[:, self.member_order]
        below = _cumulative(nonmember_weights[:, self.nonmember_order])
        wins = 0.5 * (below[:, self.below] + below[:, self.not_above])
        return (members * wins).sum(1) / (members.sum(1) * below[:, -1])

    def tpr(self, member_weights: Floats, nonmember_weights: Floats, fprs: Sequence[float]) -> Floats:
        """Return ``[B, len(fprs)]``: the highest TPR whose FPR is at most the given one (0 <= fpr < 1)."""
        if not fprs:
            return np.zeros((len(member_weights), 0))
        hits = _cumulative(member_weights[:, self.member_order])
        false = _cumulative(nonmember_weights[:, self.nonmember_order])
        total = false[:, -1:]
        false_above = total - false[:, self.nonmembers_up_to]
        rows = np.arange(len(hits))
        columns = []
        for fpr in fprs:
            # The FPR falls along the thresholds: the first one allowed is the lowest. The slack absorbs rounding only.
            first = np.argmax(false_above <= fpr * total * (1 + 1e-12), axis=1)
            columns.append(1 - hits[rows, self.members_up_to[first]] / hits[:, -1])
        return np.stack(columns, axis=1)


def _cumulative(weights: Floats) -> Floats:
    total = np.zeros((weights.shape[0], weights.shape[1] + 1))
    np.cumsum(weights, axis=1, out=total[:, 1:])
    return total
