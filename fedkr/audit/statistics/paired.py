"""Two audited models against each other: the difference of an attack's AUCs on the same images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedkr.audit.statistics.membership import resamples, several_units, unit_of
from fedkr.errors import UserError
from fedkr.resampling import LIMITS, unit_index
from fedkr.roc import RocCounts


@dataclass(frozen=True)
class PairedDifference:
    """AUC of the first model less that of the second, with its 95 % interval, which resamples images or patients."""

    difference: float
    low: float
    high: float
    unit: str


def paired_difference(
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    members: int,
    bootstrap: int,
    seed: int,
    groups: NDArray[np.int64] | None = None,
) -> PairedDifference:
    """Return by how much more one model reveals than another, by one attack on one challenge set.

    The interval is the percentile interval of a paired bootstrap, stratified by membership: each resample holds the
    same images for both models, so that what is hard about an image for both cancels out. (DeLong et al. 1988 give
    the same without resampling, but cannot resample whole groups.) One image or patient alone on a side cannot be
    resampled: the interval is then -1 to 1.

    Both models' scores are float ``[N]`` on the same natural images, of which the first ``members`` are members;
    ``groups`` are int ``[N]`` (patients), resampled whole.

    Raises:
        UserError: shapes that do not fit, a side without images, scores that are NaN, or no resample.
    """
    pair = [np.asarray(scores, dtype=np.float64) for scores in (scores_a, scores_b)]
    if pair[0].ndim != 1 or pair[0].shape != pair[1].shape or not 0 < members < len(pair[0]):
        shapes = f"{list(pair[0].shape)} and {list(pair[1].shape)}"
        raise UserError(f"paired difference: scores {shapes} with {members} members are not of one challenge set")
    if any(np.isnan(scores).any() for scores in pair):
        raise UserError("paired difference: scores that are NaN; did a model diverge?")
    if bootstrap < 1:
        raise UserError(f"audit.bootstrap={bootstrap}: must be at least 1")
    sides = (slice(None, members), slice(members, None))
    counts = [RocCounts(*(scores[side] for side in sides)) for scores in pair]
    inside, outside = (unit_index(pair[0][side], None if groups is None else groups[side]) for side in sides)
    drawn = [
        counts[0].auc(*weights) - counts[1].auc(*weights)
        for weights in resamples((inside, outside), bootstrap, np.random.default_rng(seed))
    ]
    low, high = np.quantile(np.concatenate(drawn), LIMITS) if several_units((inside, outside)) else (-1.0, 1.0)
    once = np.ones((1, members)), np.ones((1, len(pair[0]) - members))
    difference = float(counts[0].auc(*once)[0] - counts[1].auc(*once)[0])
    return PairedDifference(difference, float(low), float(high), unit_of((groups, groups)))
