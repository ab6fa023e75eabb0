"""How sure a rate of 0 or 1 is: no resample of scores that do not overlap shows another one."""

from __future__ import annotations

from fedkr.privacy.bisection import largest

# Of a 95 % interval; and how exact its limit is.
STANDARD_ERRORS, TAIL, TOLERANCE = 1.959964, 0.025, 1e-9


def least_auc(members: int, nonmembers: int) -> float:
    """Return the lower 95 % limit of an AUC of 1, of so many members and non-members (images, or patients).

    It is the least AUC below 1 by no more than 1.96 standard errors of its own: method 5 of Newcombe (2006, Statistics
    in Medicine 25, 559-573), with the variance of Hanley and McNeil (1982) at the mean of both sides' numbers.
    """

    def explains(below: float) -> bool:
        return 1 - below > STANDARD_ERRORS * _variance(below, members, nonmembers) ** 0.5

    return largest(explains, 1.0, TOLERANCE)


def least_share(count: int) -> float:
    """Return the lower 95 % limit of a share of 1 of so many (Clopper & Pearson 1934)."""
    return float(TAIL ** (1 / count))


def _variance(auc: float, members: int, nonmembers: int) -> float:
    others = (members + nonmembers) / 2 - 1
    pairs = 1 + others * (1 - auc) / (2 - auc) + others * auc / (1 + auc)
    return auc * (1 - auc) * pairs / (members * nonmembers)
