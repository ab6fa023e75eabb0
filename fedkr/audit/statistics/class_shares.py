"""Class shares of members and non-members: a difference that the blind baseline, which permutes within classes, misses.

An attack scores some classes higher than others. Where members have more of those than non-members, it reads the class.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedkr.audit.statistics.blind import BLOCK, Floats, exchangeable_units
from fedkr.data.images import ImageSet
from fedkr.seeds import numpy_rng


def class_shares_p_value(members: ImageSet, nonmembers: ImageSet, seed: int, permutations: int) -> float:
    """Return the p-value of a permutation test that members and non-members are of the same classes.

    The statistic is Pearson's chi-squared of the images' classes by side. What changes sides is an image with its
    copies, among images of as many copies, or a whole group (patient). A split that is stratified by class deviates
    less than that, so that its p-values are large. The least p-value is 1 / (permutations + 1).
    """
    rng = numpy_rng(seed, "audit", "class shares")
    sides = members, nonmembers
    units, strata = exchangeable_units(sides, np.zeros(len(members) + len(nonmembers), np.int64))
    classes = np.concatenate([side.labels for side in sides])
    counts = np.zeros((len(strata), len(members.classes)))
    np.add.at(counts, (units, classes), 1.0)
    inside = np.zeros(len(strata), bool)
    inside[units[: len(members)]] = True
    observed = _chi_squared((inside[None] @ counts), counts)[0]
    exceeded, block = 0, max(1, BLOCK // len(strata))
    for start in range(0, permutations, block):
        tables = _permuted_tables(counts, inside, strata, min(block, permutations - start), rng)
        exceeded += int((_chi_squared(tables, counts) >= observed * (1 - 1e-9) - 1e-12).sum())
    return (1 + exceeded) / (1 + permutations)


def _permuted_tables(
    counts: Floats, inside: NDArray[np.bool_], strata: NDArray[np.int64], size: int, rng: np.random.Generator
) -> Floats:
    """Return ``[size, classes]``: members of each class where units changed sides within their stratum."""
    tables = np.zeros((size, counts.shape[1]))
    for stratum in np.unique(strata):
        own = np.flatnonzero(strata == stratum)
        tables += rng.permuted(np.broadcast_to(inside[own], (size, len(own))), axis=1) @ counts[own]
    return tables


def _chi_squared(members: Floats, counts: Floats) -> Floats:
    """Return ``[B]``: Pearson's chi-squared of members of each class ``[B, classes]`` among all."""
    totals = counts.sum(0)
    members, totals = members[:, totals > 0], totals[totals > 0]
    share = members.sum(1, keepdims=True) / totals.sum()
    # Copies and groups differ in size, so that the number of members does, too.
    varies = totals * share * (1 - share)
    found: Floats = np.divide((members - totals * share) ** 2, varies, out=np.zeros_like(members), where=varies > 0)
    return found.sum(1)
