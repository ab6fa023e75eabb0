"""The accountant: Gaussian differential privacy, which composes without loss (Dong, Roth & Su 2022).

A query that one unit moves by at most 1 (L2), answered with noise of standard deviation ``1 / mu``, is mu-GDP. Such
answers, each chosen in the light of those before, are together mu-GDP with ``mu^2`` the sum of theirs, and (epsilon,
delta)-DP for exactly the pairs of :func:`delta_of`, the analytic Gaussian mechanism (Balle & Wang 2018). Results are
rounded so that no guarantee is overstated.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from fedkr.privacy.bisection import largest
from fedkr.privacy.normal import upper_tail

# The largest epsilon that is told apart from none at all, and a mu that is beyond it at any delta of use.
LARGEST_EPSILON, LARGEST_MU = 500.0, 40.0
TOLERANCE = 1e-9


def delta_of(epsilon: float, mu: float) -> float:
    """Return the least delta at which a mu-GDP mechanism is (epsilon, delta)-DP (Balle & Wang 2018, theorem 8)."""
    if mu == 0:
        return 0.0
    # exp overflows no float64 at the largest epsilon, and the second factor falls faster than it grows.
    return upper_tail(epsilon / mu - mu / 2) - math.exp(epsilon) * upper_tail(epsilon / mu + mu / 2)


def epsilon_of(mu: float, delta: float) -> float:
    """Return the epsilon of a mu-GDP mechanism at ``delta``, rounded up; infinity beyond :data:`LARGEST_EPSILON`."""
    if delta <= 0:
        return math.inf if mu > 0 else 0.0
    found = largest(lambda epsilon: delta_of(epsilon, mu) > delta, LARGEST_EPSILON, TOLERANCE)
    if found == 0 and delta_of(0.0, mu) <= delta:
        return 0.0
    return found + TOLERANCE if found < LARGEST_EPSILON - TOLERANCE else math.inf


def mu_of(epsilon: float, delta: float) -> float:
    """Return the largest mu whose mechanism is (epsilon, delta)-DP, rounded down: its noise is ``1 / mu``."""
    return largest(lambda mu: delta_of(epsilon, mu) <= delta, LARGEST_MU, TOLERANCE)


def together(mus: Iterable[float]) -> float:
    """Return the mu of several mechanisms on the same images, whatever each was chosen by."""
    return math.hypot(*mus)
