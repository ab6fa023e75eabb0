"""A lower bound on a Gaussian mechanism's mu from one training run (Mahloujifar, Melis & Chaudhuri 2025, ICML).

As for :mod:`fedkr.audit.statistics.epsilon`, m examples were put into the training data by fair coins, of which r were
guessed and v guessed right. Steinke's bound assumes nothing but (epsilon, delta); this one supposes the privacy that
noisy training has, a Gaussian trade-off curve, and refutes it by its whole curve. So it is tighter, and answers another
question: the least mu for which a mu-GDP pipeline would show so many right guesses (Dong, Roth & Su 2022).
"""

from __future__ import annotations

from statistics import NormalDist

from fedkr.audit.statistics.epsilon import LARGEST_EPSILON, check_counts
from fedkr.privacy.accountant import delta_of
from fedkr.privacy.bisection import largest
from fedkr.privacy.normal import upper_tail

LARGEST_MU = 10.0
# The recursion takes a step for each; more than so many would take a server seconds.
MOST_GUESSES = 20_000


def mu_lower_bound(coins: int, guesses: int, correct: int, *, confidence: float = 0.95) -> float | None:
    """Return the largest mu that ``correct`` right guesses refute at ``confidence``, 0 if none, 10 at most.

    None for more guesses than :data:`MOST_GUESSES`.

    Counts that do not fit (0 <= correct <= guesses <= coins) or a confidence out of range are a UserError.
    """
    check_counts(coins, guesses, correct, confidence=confidence)
    if guesses > MOST_GUESSES:
        return None
    return largest(lambda mu: _refuted(coins, guesses, correct, mu, 1 - confidence), LARGEST_MU, 1e-6)


def epsilon_of_mu(mu: float, delta: float) -> float:
    """Return the epsilon that a mu-GDP mechanism has at ``delta``, as a lower bound is told: rounded down.

    At most :data:`~fedkr.audit.statistics.epsilon.LARGEST_EPSILON`, which it is for a ``delta`` of 0 and a mu above 0.
    """
    if delta == 0:
        return LARGEST_EPSILON if mu > 0 else 0.0
    return largest(lambda epsilon: delta_of(epsilon, mu) > delta, LARGEST_EPSILON, 1e-9)


def _refuted(coins: int, guesses: int, correct: int, mu: float, level: float) -> bool:
    """Return whether ``correct`` or more right guesses are less likely than ``level`` under mu-GDP (algorithm 3).

    Of all distributions of the number of right guesses whose upper tail is ``level``, the trade-off curve bounds from
    below how much mass lies on each smaller number; where more than 1 would be needed, there is none such.
    """
    right = level * correct / coins
    wrong = level * (guesses - correct) / coins
    for count in range(correct - 1, -1, -1):
        least = max(wrong, upper_tail(mu - NormalDist().inv_cdf(right))) if right < 1 else 1.0
        right += count / (guesses - count) * (least - wrong)
        wrong = least
        if right + wrong > guesses / coins:
            return True
    return False
