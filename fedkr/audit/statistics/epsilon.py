"""An empirical lower bound on epsilon from one training run (Steinke, Nasr & Jagielski 2023, NeurIPS).

Each of m examples was put into the training data by its own fair coin. The auditor guesses r of the coins, r fixed
beforehand, and v guesses are right. If the pipeline were (eps, delta)-DP, so many right guesses would be unlikely.
Only examples included by independent fair coins count: a holdout of fixed size is not m coins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

from fedkr.errors import UserError
from fedkr.privacy.bisection import largest

LARGEST_EPSILON = 50.0


@dataclass(frozen=True)
class OneRunBound:
    """A lower bound on epsilon and all that it rests on.

    Attributes:
        epsilon: the bound, at the given delta and confidence.
        delta, confidence: what it holds for.
        coins, guesses, correct: m, r and v of the paper.
        largest: the bound had all r guesses been right, the most that these could show.
    """

    epsilon: float
    delta: float
    confidence: float
    coins: int
    guesses: int
    correct: int
    largest: float


def one_run_bound(
    coins: int, guesses: int, correct: int, *, delta: float = 1e-5, confidence: float = 0.95
) -> OneRunBound:
    """Bound epsilon from how many of the guessed coins were right, by :func:`epsilon_lower_bound`."""
    bound = epsilon_lower_bound(coins, guesses, correct, delta=delta, confidence=confidence)
    largest = epsilon_lower_bound(coins, guesses, guesses, delta=delta, confidence=confidence)
    return OneRunBound(bound, delta, confidence, coins, guesses, correct, largest)


def correct_guesses(scores: NDArray[np.float64], included: NDArray[np.bool_], guesses: int) -> int:
    """Return how many coins ``included [m]`` are right when the highest scores are called "in", the lowest "out".

    Half of the guesses, whose number r is fixed before the scores are seen, are of either kind; the highest take the
    odd one. Equal scores ``[m]`` are guessed in the examples' own order, which must not depend on the coins.

    Raises:
        UserError: shapes that do not fit, scores that are NaN, or more guesses than coins.
    """
    if scores.shape != included.shape or scores.ndim != 1 or included.dtype != np.bool_:
        raise UserError(f"coins: expected a bool for each of {scores.size} scores, got shape {list(included.shape)}")
    if np.isnan(scores).any():
        raise UserError("coins: scores that are NaN; did the model diverge?")
    check_counts(len(scores), guesses, 0)
    order = np.argsort(scores, kind="stable")
    lowest, highest = order[: guesses // 2], order[len(order) - (guesses - guesses // 2) :]
    return int((~included[lowest]).sum() + included[highest].sum())


def p_value(coins: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """Return an upper bound on Pr[at least ``correct`` of ``guesses`` right] under (epsilon, delta)-DP (Theorem 5.2).

    ``beta + 2 m delta max_i Pr[v > W >= v - i] / i`` with ``W ~ Binomial(r, e^eps / (1 + e^eps))``,
    ``beta = Pr[W >= v]`` and i from 1 to v.
    """
    accuracy = 1 / (1 + np.exp(-epsilon))
    beta = scipy.stats.binom.sf(correct - 1, guesses, accuracy)
    just_below = np.cumsum(scipy.stats.binom.pmf(np.arange(correct - 1, -1, -1), guesses, accuracy))
    alpha = (just_below / np.arange(1, correct + 1)).max(initial=0.0)
    return float(min(beta + 2 * coins * delta * alpha, 1.0))


def epsilon_lower_bound(
    coins: int, guesses: int, correct: int, *, delta: float = 1e-5, confidence: float = 0.95
) -> float:
    """Return the largest epsilon that ``correct`` right guesses refute at ``confidence``, 0 if none (by bisection).

    Counts that do not fit (0 <= correct <= guesses <= coins), or delta or confidence out of range, are a UserError.
    """
    check_counts(coins, guesses, correct, delta, confidence)
    return largest(
        lambda epsilon: p_value(coins, guesses, correct, epsilon, delta) <= 1 - confidence, LARGEST_EPSILON, 1e-9
    )


def check_counts(coins: int, guesses: int, correct: int, delta: float = 0.0, confidence: float = 0.95) -> None:
    """Raise :class:`UserError` unless 0 <= correct <= guesses <= coins, and delta and confidence are probabilities."""
    if not 0 <= correct <= guesses <= coins or coins < 1:
        raise UserError(f"coins={coins}, guesses={guesses}, correct={correct}: each must be at most the one before")
    if not 0 <= delta <= 1:
        raise UserError(f"delta={delta}: between 0 and 1, and well below 1 / coins")
    if not 0 < confidence < 1:
        raise UserError(f"confidence={confidence}: between 0 and 1, as in 0.95")
