"""The noise of DP-SGD: many Gaussian answers, each on a random sample of the units (Abadi et al. 2016)."""

from __future__ import annotations

import math
import warnings
from functools import lru_cache

from fedkr.privacy.accountant import mu_of


@lru_cache
def noise_for(epsilon: float, delta: float, rate: float, steps: int) -> float:
    """Return the noise with which ``steps`` sums together are (epsilon, delta)-DP, of neighbours by one unit.

    Each unit is in a sum with chance ``rate``, by a coin of its own, and adds a vector of length 1 at most; the noise
    is the standard deviation in each number of the sum. By Opacus' PRV accountant (Gopi et al. 2021), which rounds up;
    exactly where every unit is in every sum.
    """
    exact = math.sqrt(steps) / mu_of(epsilon, delta)
    if rate >= 1:
        return exact
    # Imported here: it takes seconds, and nothing else needs it.
    from opacus.accountants.utils import get_noise_multiplier

    with warnings.catch_warnings():
        # Of orders that its first guess, by another accountant, tries.
        warnings.simplefilter("ignore")
        try:
            found: float = get_noise_multiplier(
                target_epsilon=epsilon,
                target_delta=delta,
                sample_rate=rate,
                steps=steps,
                accountant="prv",
                epsilon_tolerance=min(0.01, epsilon / 100),
            )
        except ValueError:
            found = math.inf
    # Sampling never takes more noise than none.
    return min(found, exact)
