"""A two-sample test: whether members lie closer to a release than the holdout does, from these three sets alone.

No reference is needed, so that a site can ask before anything leaves it. The price is power: an image that lies close
to anything drawn of its class counts like one that the release copies.
"""

from __future__ import annotations

import numpy as np
import scipy
from numpy.typing import NDArray

from fedkr.audit.statistics.blind import exchangeable_units, permuted_membership
from fedkr.data.images import ImageSet
from fedkr.errors import UserError
from fedkr.resampling import Floats
from fedkr.seeds import numpy_rng

# A release that copies a few members shows in its closest images, one that is a little too close to all in the mean.
TOP_SHARES = (0.005, 0.01, 0.02, 0.05, 0.1)
# Values of membership labels in one matrix product.
BLOCK = 4_000_000


def closeness_test(scores: Floats, members: ImageSet, nonmembers: ImageSet, seed: int, permutations: int) -> float:
    """Return the one-sided p-value that members score no higher than non-members.

    ``scores`` are float ``[N, A]``, of A attacks, on members and then non-members. They are ranked by their difference
    to the median of the class; of the ranks, the mean and the shares among the highest (:data:`TOP_SHARES`) of members
    are compared with those of non-members. The largest of these differences, each in units of its spread under
    permutation, is what the permutations are asked about (Westfall & Young 1993): they exchange images within their
    class, and whole groups (patients) where there are any, so that the test is exact. The least p-value is
    1 / (permutations + 1).

    Raises:
        UserError: no permutation.
    """
    if permutations < 1:
        raise UserError(f"permutations={permutations}: must be at least 1")
    classes = np.concatenate([members.labels, nonmembers.labels])
    membership = np.repeat([1.0, 0.0], [len(members), len(nonmembers)])
    units, strata = exchangeable_units((members, nonmembers), classes)
    rng = numpy_rng(seed, "audit", "two-sample")
    statistics = _statistics(scores, classes)
    found = [_differences(membership[None], statistics)]
    block = max(1, BLOCK // len(membership))
    for start in range(0, permutations, block):
        count = min(block, permutations - start)
        labels = np.stack([permuted_membership(membership, units, strata, rng) for _ in range(count)])
        found.append(_differences(labels, statistics))
    differences = np.concatenate(found)
    spread = differences.std(0)
    # What no permutation changes says nothing.
    largest = ((differences - differences.mean(0)) / np.where(spread > 0, spread, np.inf)).max(1)
    return float((largest >= largest[0] - 1e-9).mean())


def _statistics(scores: Floats, classes: NDArray[np.int64]) -> Floats:
    """Return ``[N, A * (1 + len(TOP_SHARES))]``: ranks in 0..1, less the class's median, and whether they are high."""
    centred = np.array(scores, dtype=np.float64)
    for label in np.unique(classes):
        own = classes == label
        centred[own] -= np.median(centred[own], axis=0)
    ranks = (scipy.stats.rankdata(centred, axis=0) - 0.5) / len(centred)
    return np.concatenate([ranks, *(ranks > 1 - share for share in TOP_SHARES)], axis=1)


def _differences(membership: Floats, statistics: Floats) -> Floats:
    """Return ``[P, S]``: the members' mean less that of the non-members, for labels ``[P, N]``."""
    members = membership.sum(1, keepdims=True)
    inside = membership @ statistics
    return inside / members - (statistics.sum(0) - inside) / (membership.shape[1] - members)
