"""The accountant: known values, no guarantee overstated, and composition as one mechanism of more noise."""

import math

import numpy as np
import pytest
import scipy
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkr.privacy.accountant import delta_of, epsilon_of, mu_of, together
from tests.hostile import CASES

DELTAS = st.sampled_from([1e-3, 1e-5, 1e-8])
# The first case imports what the others have: no deadline for each.
FEW = settings(max_examples=CASES, deadline=None, database=None)


@pytest.mark.parametrize(
    ("epsilon", "delta", "sigma"),
    # The first as Balle & Wang's own code has it; the others so that a change shows.
    [(1.0, 1e-5, 3.730632), (0.1, 1e-6, 36.304691), (2.0, 1e-5, 1.993812), (8.0, 1e-5, 0.600229)],
)
def test_the_noise_is_that_of_the_analytic_gaussian_mechanism(epsilon, delta, sigma):
    assert 1 / mu_of(epsilon, delta) == pytest.approx(sigma, rel=1e-5)


def test_it_takes_less_noise_than_the_classical_bound():
    classical = math.sqrt(2 * math.log(1.25 / 1e-5)) / 0.9
    assert 0.6 * classical < 1 / mu_of(0.9, 1e-5) < classical


@pytest.mark.parametrize(("epsilon", "mu"), [(0.5, 0.3), (1.0, 1.0), (4.0, 1.2), (10.0, 3.0)])
def test_delta_is_the_expected_excess_of_the_privacy_loss(epsilon, mu):
    def excess(loss):
        return -math.expm1(epsilon - loss) * scipy.stats.norm.pdf(loss, mu**2 / 2, mu)

    expected, _ = scipy.integrate.quad(excess, epsilon, epsilon + 40 * mu, epsabs=1e-14, limit=200)
    assert delta_of(epsilon, mu) == pytest.approx(expected, rel=1e-6)


@FEW
@given(st.floats(0.01, 60), DELTAS)
def test_no_guarantee_is_overstated(epsilon, delta):
    mu = mu_of(epsilon, delta)
    assert delta_of(epsilon, mu) <= delta
    assert epsilon - 1e-4 < epsilon_of(mu, delta)
    assert delta_of(epsilon_of(mu, delta), mu) <= delta


@FEW
@given(st.lists(st.floats(0.01, 2), min_size=1, max_size=6), DELTAS)
def test_mechanisms_together_cost_more_than_each_and_less_than_their_epsilons_summed(mus, delta):
    whole = epsilon_of(together(mus), delta)
    each = [epsilon_of(mu, delta / len(mus)) for mu in mus]
    assert max(epsilon_of(mu, delta) for mu in mus) <= whole + 1e-6
    assert whole <= sum(each) + 1e-6


def test_the_likelihood_ratio_of_composed_answers_is_that_of_one_with_their_mu():
    rng, mus = np.random.default_rng(0), np.array([0.3, 0.7, 1.1])
    answers = rng.normal(size=(200_000, 3)) / mus + 1
    losses = (mus**2 * (answers - 0.5)).sum(axis=1)
    mu = together(mus)
    assert losses.mean() == pytest.approx(mu**2 / 2, abs=0.01) and losses.std() == pytest.approx(mu, rel=0.01)


def test_no_mechanism_costs_nothing_and_none_is_private_without_a_delta():
    assert (together([]), epsilon_of(0.0, 1e-5), epsilon_of(0.0, 0.0)) == (0.0, 0.0, 0.0)
    assert epsilon_of(1.0, 0.0) == math.inf == epsilon_of(39.0, 1e-5)
