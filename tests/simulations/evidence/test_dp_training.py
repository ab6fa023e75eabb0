"""The evidence for DP-SGD: the strongest test of the product's noisy gradients shows no more than is stated."""

import math

import numpy as np
import pytest

from fedkr.privacy.sampled import noise_for
from simulations.evidence.dp_training import BROKEN, DELTA, SETTINGS, epsilon_shown, scores

STATED = 2.0
SETTING = pytest.mark.parametrize(("rate", "steps"), SETTINGS)


@SETTING
def test_it_shows_no_larger_epsilon_than_is_stated_and_with_too_little_noise_it_does(rate, steps):
    noise = noise_for(STATED, DELTA, rate, steps)
    kept, broken = (epsilon_shown(*scores(n, rate, steps, 150, 0), STATED) for n in (noise, noise / BROKEN))
    assert kept < STATED < broken


def test_of_whole_batches_the_image_has_its_whole_say():
    noise = noise_for(STATED, DELTA, 1.0, 4)
    present, absent = scores(noise, 1.0, 4, 150, 0)
    mu = 2 / noise
    # Of a Gaussian mechanism both have mean mu^2 / 2 and standard deviation mu.
    assert np.abs(np.array([present.mean(), -absent.mean()]) - mu**2 / 2).max() < 4 * mu / math.sqrt(150)


def test_scores_that_say_nothing_show_nothing_and_others_the_ratio_of_their_rates():
    assert epsilon_shown(np.array([1.0, -1.0] * 50), np.array([1.0, -1.0] * 50), STATED) == 0.0
    assert epsilon_shown(np.full(100, -1.0), np.full(100, -1.0), STATED) == 0.0
    certain = epsilon_shown(np.full(10_000, 3.0), np.full(10_000, -3.0), STATED)
    assert certain == pytest.approx(math.log(10_000 / -math.log(0.000125)), rel=0.01)
