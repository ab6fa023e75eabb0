"""The evidence for the guarantee: the strongest test of the mechanism shows no more than is stated."""

import math

import numpy as np
import pytest

from fedkr.privacy.accountant import mu_of
from simulations.evidence.dp import BROKEN, DELTA, epsilon_shown, scores

STATED = 8.0


@pytest.fixture(scope="module")
def mu():
    return mu_of(STATED, DELTA)


APART = pytest.mark.parametrize("apart", [False, True], ids=["three queries", "four"])


@APART
def test_the_mechanism_shows_no_larger_epsilon_than_is_stated_and_with_too_little_noise_it_does(mu, apart):
    kept, broken = (epsilon_shown(*scores(noise, 60, 0, apart)) for noise in (mu, mu * math.sqrt(BROKEN)))
    assert kept < STATED < broken


@APART
def test_the_canary_uses_all_that_the_accountant_allows_to_one_image(mu, apart):
    present, absent = scores(mu, 60, 0, apart)
    # Of a Gaussian mechanism both have mean mu^2 / 2 and standard deviation mu.
    means = np.array([present.mean(), -absent.mean()])
    assert np.abs(means - mu**2 / 2).max() < 4 * mu / math.sqrt(60)
    assert present.mean() - absent.mean() > 0.8 * mu**2, "a weaker one would show little whatever the noise"


def test_scores_that_say_nothing_show_nothing():
    assert epsilon_shown(np.array([1.0, -1.0] * 50), np.array([1.0, -1.0] * 50)) == 0.0
    assert epsilon_shown(np.full(100, -1.0), np.full(100, -1.0)) == 0.0
