import math

import numpy as np
import pytest
from scipy.stats import norm

from fedkr.audit.statistics.epsilon import LARGEST_EPSILON, correct_guesses, epsilon_lower_bound
from fedkr.audit.statistics.fdp import MOST_GUESSES, epsilon_of_mu, mu_lower_bound
from fedkr.errors import UserError


def least_total(coins, guesses, correct, mu, level):
    """Algorithm 3 as the paper writes it, with lists h and r; refuted where it is above guesses / coins."""
    h, r = [0.0] * (correct + 1), [0.0] * (correct + 1)
    h[correct], r[correct] = level * (guesses - correct) / coins, level * correct / coins
    for i in range(correct - 1, -1, -1):
        h[i] = max(h[i + 1], norm.cdf(norm.ppf(min(r[i + 1], 1.0)) - mu))
        r[i] = r[i + 1] + i / (guesses - i) * (h[i] - h[i + 1])
    return h[0] + r[0]


@pytest.mark.parametrize("counts", [(40, 20, 18), (60, 30, 25), (100, 50, 40), (200, 200, 140)])
def test_the_bound_is_where_the_papers_recursion_stops_refuting(counts):
    mu = mu_lower_bound(*counts)
    assert mu > 0
    assert least_total(*counts, mu - 1e-4, 0.05) > counts[1] / counts[0] >= least_total(*counts, mu + 1e-4, 0.05)


@pytest.mark.parametrize("mu", [0.5, 1.0, 2.0])
def test_of_mechanisms_whose_mu_is_known_at_most_one_in_twenty_is_given_more(mu):
    rng, bounds, steinke = np.random.default_rng(0), [], []
    for _ in range(40):
        included = rng.random(400) < 0.5
        correct = correct_guesses(rng.normal(mu * included, 1), included, 60)
        bounds.append(mu_lower_bound(400, 60, correct))
        steinke.append(epsilon_lower_bound(400, 60, correct))
    assert np.mean(np.array(bounds) > mu) <= 0.05
    # What the supposed curve is good for: at equal guesses it refutes more than (epsilon, delta) alone.
    assert np.mean([epsilon_of_mu(bound, 1e-5) for bound in bounds]) > 1.2 * np.mean(steinke)


def test_guessing_shows_nothing_and_all_right_shows_the_more_the_more_coins():
    assert mu_lower_bound(1000, 200, 100) == 0.0
    bounds = [mu_lower_bound(coins, coins, coins) for coins in (10, 100, 1000)]
    assert 0 < bounds[0] < bounds[1] < bounds[2]


def test_the_epsilon_of_a_gaussian_mechanism_has_the_delta_that_is_asked_for():
    for mu, delta in ((0.5, 1e-5), (1.0, 1e-3), (3.0, 1e-6)):
        epsilon = epsilon_of_mu(mu, delta)
        back = norm.cdf(-epsilon / mu + mu / 2) - math.exp(epsilon) * norm.cdf(-epsilon / mu - mu / 2)
        assert back == pytest.approx(delta, rel=1e-4)
    assert epsilon_of_mu(0.0, 1e-5) == 0.0


def test_counts_that_do_not_fit_are_refused_and_too_many_guesses_give_none():
    with pytest.raises(UserError, match="correct=11"):
        mu_lower_bound(20, 10, 11)
    assert mu_lower_bound(MOST_GUESSES + 1, MOST_GUESSES + 1, MOST_GUESSES) is None


def test_without_a_delta_a_gaussian_mechanism_has_no_finite_epsilon():
    assert (epsilon_of_mu(0.01, 0.0), epsilon_of_mu(0.0, 0.0)) == (LARGEST_EPSILON, 0.0)
