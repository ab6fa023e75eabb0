"""The noise of DP-SGD: many Gaussian answers, each on a random sample of the units (Abadi et al. 2016)."""

from __future__ import annotations

import math
import warnings
from functools import lru_cache

from fedkr.privacy.accountant import mu_of
from fedkr.privacy.bisection import largest

# Orders of Renyi divergence beyond Opacus' own, which small epsilons take.
FURTHER_ORDERS = (80, 128, 192, 256, 384, 512)
# Of the noise, as a share.
TOLERANCE = 1e-4


@lru_cache
def noise_for(epsilon: float, delta: float, rate: float, steps: int) -> float:
    """Return the noise with which ``steps`` sums together are (epsilon, delta)-DP, of neighbours by one unit.

    Each unit is in a sum with chance ``rate``, by a coin of its own, and adds a vector of length 1 at most; the noise
    is the standard deviation in each number of the sum. By Opacus' RDP accountant (Mironov, Talwar & Zhang 2019), which
    asks for some 5 % more than a numerical one (Gopi et al. 2021), but takes seconds and next to no memory, whatever is
    asked; exactly where every unit is in every sum.
    """
    exact = math.sqrt(steps) / mu_of(epsilon, delta)
    if rate >= 1:
        return exact
    # Sampling never takes more noise than none, and the more of it is left away, the less is kept.
    saved = largest(lambda share: _epsilon(exact * (1 - share), delta, rate, steps) <= epsilon, 1.0, TOLERANCE)
    return exact * (1 - saved)


def _epsilon(noise: float, delta: float, rate: float, steps: int) -> float:
    """Return the epsilon that the accountant has for a noise."""
    # Imported here: it takes seconds, and nothing else needs it.
    from opacus.accountants import RDPAccountant

    if noise <= 0:
        return math.inf
    accountant, orders = RDPAccountant(), [*RDPAccountant.DEFAULT_ALPHAS, *FURTHER_ORDERS]
    accountant.history = [(noise, rate, steps)]
    with warnings.catch_warnings():
        # Of an order at the end of the list, where another would save some noise.
        warnings.simplefilter("ignore")
        return float(accountant.get_epsilon(delta, alphas=orders))
